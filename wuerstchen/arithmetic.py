"""Products, attention and norms by the fastest way that PyTorch has for them.

On a CPU that is not always the way it takes by itself. With AVX-512 its own float32 product is half as
fast as oneDNN's where MKL does not use the processor's widest registers, and its fused attention
reaches a fifth of a product's speed: there oneDNN multiplies, and attention goes head by head. oneDNN
packs weights in an order of its own for each product; within a run (`packing`) they are packed once,
on any CPU brought to the run's precision once. PyTorch's norm over a map walks through memory column by
column; here it goes band by band. The numbers are the same, but for rounding. None of this knows
gradients: where they are asked for, and on other devices, PyTorch goes its own way.

Shapes: N batch, C channels, H W rows and columns of a map, L tokens, d features of a head.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .memory import memory_left

HAS_ONEDNN = all(
    hasattr(torch.ops.mkldnn, name) for name in ("_linear_pointwise", "_reorder_linear_weight")
)
WIDE = HAS_ONEDNN and torch.backends.cpu.get_cpu_capability() == "AVX512"
ONEDNN = (torch.float32, torch.bfloat16) if WIDE else ()  # what oneDNN multiplies faster here
HALVES = {  # what tells whether oneDNN multiplies in them here
    torch.bfloat16: "_is_mkldnn_bf16_supported",
    torch.float16: "_is_mkldnn_fp16_supported",
}
WORTHWHILE = 2**16  # scores of a head per thread
SCORES, ROWS = 2**21, 128  # at once, so that they stay in a CPU's cache; at least so many queries
BAND = 2**20  # numbers of a map at once, likewise
ALL = slice(None)

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
ATTEND: Attend = F.scaled_dot_product_attention


def multiplies(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether a device multiplies numbers of a precision no slower than float32.

    A CPU that does not is some ten times slower. Where PyTorch has no oneDNN, nothing is known.
    """
    if device.type != "cpu" or dtype not in HALVES:
        return True
    asked = getattr(torch.ops.mkldnn, HALVES[dtype], None)
    return asked is None or bool(asked())


def linear(
    layer: Any,
    x: Tensor,
    *,
    columns: slice = ALL,
    activate: bool = False,
    plus: Tensor | None = None,
) -> Tensor:
    """Return what `layer` makes of `x` (..., D), then its GELU or its sum with `plus`, if asked.

    `x` may hold only some of the layer's input features, its `columns`.
    """
    eager = is_eager(x, layer.weight, layer.bias, plus)
    if columns != ALL or (eager and is_plain(layer)):
        weights = (packed if eager else weight_and_bias)(layer, x, columns)
        y = product(x, *weights, activate=activate, plus=plus)
        release(layer)
        return y
    return epilogue(layer(x), activate, plus)


def is_plain(layer: Any) -> bool:
    """Whether a call of `layer` only multiplies by its weights: nobody hooked or replaced it."""
    around = is_replaced(layer) or layer._forward_hooks or layer._forward_pre_hooks
    return (type(layer) is nn.Linear or hasattr(layer, "fetch")) and not around


def is_replaced(layer: Any) -> bool:
    """Whether a call of `layer` does something else than its class says."""
    return getattr(layer.forward, "__func__", None) is not type(layer).forward


def product(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activate: bool = False,
    plus: Tensor | None = None,
) -> Tensor:
    """Return `x` (..., D) times `weight` (D', D) plus `bias` (D',), then as `linear`."""
    if not takes_onednn(x, weight, bias, plus):
        if weight.device.type == "mps":  # where a part of a matrix may be read as if it were whole
            weight = weight.contiguous()
        # strided rows would be multiplied one by one
        return epilogue(F.linear(x.contiguous(), weight, bias), activate, plus)
    fused: Any = torch.ops.mkldnn._linear_pointwise
    if not weight.is_mkldnn:
        weight = weight.contiguous()  # a thousand times slower without
    y: Tensor
    if plus is not None:
        y = fused.binary(x, plus, weight, bias, "add")
    else:
        y = fused(x, weight, bias, "gelu" if activate else "none", [], "none")
    return y


def epilogue(y: Tensor, activate: bool, plus: Tensor | None) -> Tensor:
    """Return the GELU of `y`, or its sum with `plus`, or `y`."""
    if activate:
        return F.gelu(y)
    return y if plus is None else plus + y


def attend(queries: Tensor, keys: Tensor, values: Tensor, fused: Attend = ATTEND) -> Tensor:
    """Return softmax(q kᵀ / √d) v, shape of `queries` (N, heads, L, d).

    Where oneDNN multiplies, for some queries of one head at a time, whose scores, in float32, stay in
    the cache, with keys and values packed for all of them; elsewhere, and where a head is too small
    to occupy all threads, by `fused`, which is PyTorch's own way or a host's.
    """
    if queries.device.type == "mps":  # whose kernel for few queries misreads strides
        queries, keys, values = (part.contiguous() for part in (queries, keys, values))
    scores = queries.shape[2] * keys.shape[2]
    if not takes_onednn(queries, keys, values) or scores < WORTHWHILE * torch.get_num_threads():
        return fused(queries, keys, values)
    scaled = queries.float() * queries.shape[-1] ** -0.5
    heads = (part.flatten(0, 1) for part in (scaled, keys.float(), values.transpose(2, 3)))
    rows, found = max(ROWS, SCORES // keys.shape[2]), []
    for q, k, v in zip(*heads, strict=True):
        if len(q) > rows:
            k, v = prepacked(k, rows), prepacked(v, rows)
        for some in torch.split(q, rows):
            found.append(product(product(some, k).softmax(dim=1).to(values.dtype), v))
    return torch.cat(found).view(queries.shape)


def norm_over_map(x: Tensor) -> Tensor:
    """Return the root of the sum of squares over H and W of rows (N, H, W, C): (N, 1, 1, C), float32."""
    if x.device.type != "cpu" or needs_grad(x):  # the root of a sum of 0 has no finite gradient
        norm: Tensor = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True, dtype=torch.float32)
        return norm
    rows = max(1, BAND // x.shape[-1])
    sums = [sum_of_squares(torch.split(one, rows)) for one in x.flatten(1, 2)]
    return torch.stack(sums).sqrt()[:, None, None]


def sum_of_squares(bands: Sequence[Tensor]) -> Tensor:
    """Return the sums of squares (C,), float32, over the rows of all `bands`, each (rows, C)."""
    return torch.stack([band.float().square().sum(dim=0) for band in bands]).sum(dim=0)


@contextmanager
def packing(network: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Have the layers of `network`, whose weights stay as they are, keep them packed for a run.

    `dtype`: what it computes in.
    """
    keep_packed(network, dtype)
    try:
        yield
    finally:
        drop_packed(network)


def keep_packed(network: nn.Module, dtype: torch.dtype) -> None:
    """Have each linear layer keep, from its next product on, its weight as products want it.

    That is in the `dtype` that the network computes in, and in oneDNN's order where it multiplies. Only
    on a CPU, of what is not stored in 8 bits to spare memory, and where copies of all weights would take
    less than half of the memory that is left.
    """
    layers: list[Any] = [layer for layer in network.modules() if is_packable(layer)]
    if 2 * dtype.itemsize * sum(layer.weight.numel() for layer in layers) < memory_left():
        for layer in layers:
            vars(layer).setdefault("packed", {})


def is_packable(layer: nn.Module) -> bool:
    """Whether `layer` is linear and a packed copy of its weight is worth the memory."""
    if not isinstance(layer, nn.Linear):
        return False
    weight: Any = layer.weight  # some hosts have none before it is needed
    return weight is not None and weight.device.type == "cpu" and weight.itemsize > 1


def drop_packed(network: nn.Module) -> None:
    """Have the layers forget what they kept."""
    for layer in network.modules():
        vars(layer).pop("packed", None)


def packed(layer: Any, like: Tensor, columns: slice = ALL) -> tuple[Tensor, Tensor]:
    """Return `weight_and_bias`, the weight as the layer keeps it for products with what is `like` this."""
    kept = getattr(layer, "packed", None)
    if kept is None:
        return weight_and_bias(layer, like, columns)
    key = (columns.start, columns.stop, like.dtype)
    if key not in kept:
        weight, bias = weight_and_bias(layer, like, columns)
        if takes_onednn(like):
            weight = prepacked(weight, like.numel() // like.shape[-1])
        kept[key] = weight, bias
    found: tuple[Tensor, Tensor] = kept[key]
    return found


def prepacked(weight: Tensor, rows: int) -> Tensor:
    """Return a weight in the order in which oneDNN multiplies it with about so many rows."""
    order: Any = torch.ops.mkldnn._reorder_linear_weight
    packed: Tensor = order(weight.contiguous(), rows)
    return packed


def weight_and_bias(layer: Any, like: Tensor, columns: slice = ALL) -> tuple[Tensor, Tensor]:
    """Return weight and bias of `layer` on the device and in the dtype of `like`.

    Of the weight only `columns` are taken, those of some input features, and only they are moved.

    A layer of `ops` that does more than hold its weights (patch them, keep them elsewhere) has a
    method `fetch(like)` that says how; without it they are cast as they are.
    """
    if hasattr(layer, "fetch"):
        weight, bias = layer.fetch(like)
        return weight[:, columns], bias
    return layer.weight[:, columns].to(like), layer.bias.to(like)


def release(layer: Any) -> None:
    """Tell a layer that only lends its weights that the product with them has been asked for."""
    if hasattr(layer, "release"):
        layer.release()


def takes_onednn(x: Tensor, *others: Tensor | None) -> bool:
    """Whether a product is to be asked of oneDNN."""
    return x.dtype in ONEDNN and is_eager(x, *others)


def is_eager(x: Tensor, *others: Tensor | None) -> bool:
    """Whether a product is calculated on a CPU at once, as it is asked for, and needs no gradient.

    PyTorch's compiler and its autocast choose for themselves.
    """
    if x.device.type != "cpu" or needs_grad(x, *others):
        return False
    return not torch.compiler.is_compiling() and not torch.is_autocast_enabled("cpu")


def needs_grad(*tensors: Tensor | None) -> bool:
    """Whether gradients may be asked for what is calculated from `tensors`."""
    return torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in tensors
    )

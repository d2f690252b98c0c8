"""Where a network runs, in which precision, and who moves it.

A `Placement` is given to whoever builds a network. Three policies say where weights rest:

    none   on the device, all the time: fastest; a CPU with memory to spare keeps a second copy of a
           network that runs
    stage  on the CPU; the whole network is on the device while its stage runs
    layer  on the CPU; each layer's weights are on the device while that layer runs: least memory

Outputs are equal under all three, but for rounding in old versions of PyTorch. Weights that rest on
the CPU are never copied back from the device, since running a network does not change them.

A CPU without products in half precision computes in float32, from weights that rest in half.

With `quantize` the matrices of linear layers rest in 8 bits, each row with a scale of its own, and
are made whole where they are used: half the memory of fp16, for a small loss.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .allocator import kept_memory
from .arithmetic import multiplies, packing

Network = TypeVar("Network", bound=nn.Module)
Offload = Literal["none", "stage", "layer"]
Quantize = Literal["none", "int8"]

CPU = torch.device("cpu")
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Device, precision of the weights, offload policy and quantization of a network.

    With `copies` its weights are copied out of their file, which may then be written anew; else those
    that have the precision already may stay in it, mapped into memory.

    Raises:
        ValueError: if `offload` is not one of the three policies, or `quantize` not none or int8.
    """

    device: torch.device = CPU
    dtype: torch.dtype = torch.float32
    offload: Offload = "none"
    quantize: Quantize = "none"
    copies: bool = False

    def __post_init__(self) -> None:
        if self.offload not in get_args(Offload):
            raise ValueError(f"offload must be none, stage or layer, got {self.offload!r}")
        if self.quantize not in get_args(Quantize):
            raise ValueError(f"quantize must be none or int8, got {self.quantize!r}")

    @property
    def precision(self) -> torch.dtype:
        """The precision that a network computes in."""
        return self.dtype if multiplies(self.dtype, self.device) else torch.float32

    @property
    def ops(self) -> Any:
        """The namespace of layer classes to build a network from."""
        fetched = self.offload == "layer" or self.quantize == "int8"
        return Streamed if fetched or self.precision != self.dtype else nn

    @property
    def can_capture(self) -> bool:
        """Whether a step can be captured as a CUDA graph: no weights are fetched in it."""
        return self.device.type == "cuda" and self.offload != "layer"

    def settle(self, network: Network) -> Network:
        """Return `network` in evaluation mode and this precision, where its weights rest.

        Only layers of `ops` are quantized.
        """
        network = network.to(self.dtype).eval().requires_grad_(False)
        if self.quantize == "int8":
            for layer in network.modules():
                if isinstance(layer, Streamed.Linear):
                    layer.quantize()
        return network.to(self.device if self.offload == "none" else CPU)

    @contextmanager
    def running(self, network: nn.Module, *, pack: bool = True) -> Iterator[None]:
        """Bring a settled `network` to the device for a run, and its weights off again afterwards.

        With "layer" a network built from `ops` stays on the CPU; any other moves as with "stage". It
        computes in this precision, within somebody's autocast, too.

        Args:
            network: settled by this placement.
            pack: whether its weights are packed first, which pays if it is called many times.
        """
        stays = self.offload == "none" or self.device == CPU
        ready: AbstractContextManager[None]
        if stays or (self.offload == "layer" and is_streamed(network)):
            packs = pack and self.offload == "none"
            ready = packing(network, self.precision) if packs else nullcontext()
        else:
            ready = moved(network, self.device)
        with kept_memory(self.device), ready, without_autocast(self.device):
            yield


def place(device: str = "auto", dtype: str = "auto", offload: str = "none") -> Placement:
    """Return the placement that three words of the command line ask for.

    Raises:
        ValueError: if a word is unknown or the device is not there.
    """
    chosen = choose_device(device)
    policy: Any = offload
    return Placement(device=chosen, dtype=choose_dtype(dtype, chosen), offload=policy)


def choose_device(name: str = "auto") -> torch.device:
    """Return the device for "auto" (CUDA, then MPS, then CPU), "cpu", "cuda", "cuda:N" or "mps".

    Raises:
        ValueError: if the name is unknown or this machine has no such device.
    """
    available = available_devices()
    name = {"cpu:0": "cpu", "mps:0": "mps"}.get(name, name)  # as tensors may call them
    if name == "auto":
        return torch.device("cuda" if "cuda:0" in available else available[-1])
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (
        ":" in name and not (kind == "cuda" and number.isdecimal())
    ):
        raise ValueError(f"device must be auto, cpu, cuda, cuda:N or mps, got {name!r}")
    if name not in available and f"{name}:0" not in available:
        raise ValueError(f"device {name} is not there; available are {', '.join(available)}")
    return torch.device(name)


def available_devices() -> list[str]:
    """Return the names of this machine's devices, the CPU first."""
    names = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    return [*names, "mps"] if torch.backends.mps.is_available() else names


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the precision for "auto" (fp32 on the CPU, else fp16), "fp32", "fp16" or "bf16".

    Raises:
        ValueError: if the name is unknown.
    """
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.float16
    if name not in DTYPES:
        raise ValueError(f"dtype must be auto, fp32, fp16 or bf16, got {name!r}")
    return DTYPES[name]


@contextmanager
def moved(network: nn.Module, device: torch.device) -> Iterator[None]:
    """Have the weights of a network on a device for the length of a block."""
    rest = weights(network)
    try:
        for store, name, tensor in rest:
            there = tensor.to(device)
            store[name] = nn.Parameter(there, False) if isinstance(tensor, nn.Parameter) else there
        yield
    finally:
        for store, name, tensor in rest:
            store[name] = tensor


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Return a block in which PyTorch changes no precision on a device."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def is_streamed(network: nn.Module) -> bool:
    """Whether `network` is built from layers that fetch their own weights."""
    layers = (Streamed.Linear, Streamed.Conv2d, Streamed.ConvTranspose2d, Streamed.Embedding)
    return any(isinstance(module, layers) for module in network.modules())


def weights(network: nn.Module) -> list[tuple[dict[str, Any], str, Tensor]]:
    """Return every parameter and buffer of `network` with its module's store and its name there."""
    stores = [
        store for module in network.modules() for store in (module._parameters, module._buffers)
    ]
    return [(store, name, t) for store in stores for name, t in store.items() if t is not None]


class Streamed:
    """Layers whose weights rest on the CPU and take the input's device and dtype in a call."""

    class Linear(nn.Linear):
        """A linear layer that fetches its weights."""

        def quantize(self) -> None:
            """Keep the matrix as whole numbers from -127 to 127, to be multiplied with `scale`."""
            exact = self.weight.float()
            scale = exact.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / 127
            numbers = (exact / scale).round().to(torch.int8)
            self.weight = nn.Parameter(numbers, requires_grad=False)
            self.register_buffer("scale", scale)

        def fetch(self, like: Tensor) -> tuple[Tensor, Tensor | None]:
            """Return weight and bias at the device and in the dtype of `like`."""
            return cast_weights(self, like)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, *cast_weights(self, x))

    class Conv2d(nn.Conv2d):
        """A convolution that fetches its weights."""

        def forward(self, x: Tensor) -> Tensor:
            weight, bias = cast_weights(self, x)
            y: Tensor = self._conv_forward(x, weight, bias)
            return y

    class ConvTranspose2d(nn.ConvTranspose2d):
        """A transposed convolution that fetches its weights; without `output_size`."""

        def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
            sides: Any = (
                self.stride,
                self.padding,
                self.output_padding,
                self.groups,
                self.dilation,
            )
            weight, bias = cast_weights(self, x)
            y: Tensor = F.conv_transpose2d(x, weight, bias, *sides)
            return y

    class Embedding(nn.Embedding):
        """A table in which numbers are looked up where it rests."""

        def forward(self, numbers: Tensor) -> Tensor:
            found = F.embedding(numbers.to(self.weight.device), self.weight)
            return found.to(numbers.device)


def cast_weights(layer: Any, like: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return weight and bias of `layer` at the device and in the dtype of `like`."""
    weight, bias = layer.weight.to(like.device), layer.bias
    is_exact = weight.is_floating_point()
    weight = weight.to(like.dtype) if is_exact else weight * layer.scale.to(like)
    return weight, None if bias is None else bias.to(like)

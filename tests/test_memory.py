"""What full-size networks need on a device in fp16, counted without one.

The device is PyTorch's "meta", which computes nothing; what lives on it is counted after every
operation. A GPU adds its libraries' workspaces and what its allocator leaves unused.
"""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from wuerstchen.placement import Offload, Placement
from wuerstchen.sampling import denoiser, guided
from wuerstchen.sizes import cells
from wuerstchen.stage_a import StageA
from wuerstchen.stage_b import StageB
from wuerstchen.stage_c import StageC
from wuerstchen.text_encoder import TextEncoder

DEVICE, GIB = torch.device("meta"), 2**30
empty = partial(torch.empty, device=DEVICE)
half = partial(empty, dtype=torch.float16)


class Fused(TorchFunctionMode):
    """Attention without its scores in memory, as a GPU's kernel has it."""

    def __torch_function__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if call is F.scaled_dot_product_attention:
            return torch.empty_like(args[0])
        return call(*args, **(kwargs or {}))


class Meter(TorchDispatchMode):
    """Counts the bytes that live on the device, at most."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, tuple[StorageWeakRef, int]] = {}
        self.most = 0  # bytes of all in `live`, of which some may be gone
        self.peak = 0

    def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if call is torch.ops.aten._to_copy.default and kwargs.get("device") == torch.device("cpu"):
            return torch.zeros(args[0].shape, dtype=args[0].dtype)  # nothing is there to copy
        made = call(*args, **kwargs)
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and tensor.device == DEVICE:
                self.note(tensor.untyped_storage())
        if self.most > self.peak:
            self.live = {key: one for key, one in self.live.items() if not one[0].expired()}
            self.most = sum(size for _, size in self.live.values())
            self.peak = max(self.peak, self.most)
        return made

    def note(self, storage: torch.UntypedStorage) -> None:
        """Count the storage of a tensor, once however many tensors share it."""
        _, known = self.live.get(storage._cdata, (None, 0))
        self.live[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.most += storage.nbytes() - known


def on_the_cpu(kind: Any, placement: Placement) -> nn.Module:
    """Return a network whose weights have room on the CPU that nobody has touched."""
    with DEVICE:
        network: nn.Module = kind(ops=placement.ops).to(placement.dtype)
    return network.to_empty(device="cpu").eval().requires_grad_(False)


@torch.no_grad()
def run(network: Any, side: int) -> None:
    """Run the part of a picture of `side` pixels that needs most."""
    semantic, vq = cells(side)
    if isinstance(network, StageC):
        kept = network.prepare(half(2, 77, network.config.c_cond))
        denoise = guided(denoiser(network.step, kept), 4.0)
        denoise(empty(1, 16, semantic, semantic), 1.0)
    elif isinstance(network, StageB):
        text, effnet = half(1, 77, network.config.clip_embd), empty(1, 16, semantic, semantic)
        kept = network.prepare(text, effnet, (vq, vq))
        network.step(empty(1, 4, vq, vq), empty(1), kept)
    elif isinstance(network, TextEncoder):
        network(empty(2, 77, dtype=torch.long), empty(2, 77, dtype=torch.bool))
    else:
        network.decode(half(1, 4, vq, vq))


@pytest.mark.parametrize(
    ("kind", "side", "offload", "most"),
    [
        (StageC, 1024, "stage", 2.0),
        (StageB, 1024, "stage", 2.2),
        (StageA, 1024, "stage", 0.6),
        (StageC, 1024, "layer", 0.1),
        (StageB, 1024, "layer", 0.2),
        (TextEncoder, 1024, "stage", 1.4),
        (TextEncoder, 1024, "layer", 0.05),
        (StageC, 4096, "stage", 2.6),
        (StageB, 4096, "stage", 4.1),
        (StageA, 2048, "stage", 1.4),
        (StageA, 4096, "stage", 4.8),
    ],
)
def test_a_stage_fits_in(kind: Any, side: int, offload: Offload, most: float) -> None:
    placement = Placement(device=DEVICE, dtype=torch.float16, offload=offload)
    network = on_the_cpu(kind, placement)
    with Fused(), Meter() as meter, placement.running(network):
        run(network, side)
    moved = {k: x for k, x in network.state_dict().items() if "embedding" not in k}  # looked up
    sizes = [weight.nbytes for weight in moved.values()]
    assert meter.peak > (sum(sizes) if offload == "stage" else max(sizes))
    assert meter.peak < most * GIB

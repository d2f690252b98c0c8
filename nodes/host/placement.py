"""Where the host runs a network: its layers, in the precision that it chooses or the user."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import comfy.model_management as management
import comfy.ops
import torch
from comfy.ldm.modules import attention
from torch import Tensor

from ...wuerstchen.arithmetic import ATTEND
from ...wuerstchen.placement import DTYPES, Placement

WEIGHT_DTYPES = ["default", *DTYPES]
STORED = DTYPES | {"fp8_e4m3fn": torch.float8_e4m3fn}
DIFFUSION_DTYPES = ["default", *STORED]
SUPPORTED = [torch.float16, torch.bfloat16, torch.float32]


@dataclass(frozen=True, kw_only=True)
class HostPlacement(Placement):
    """Weights in `dtype` on the host's layers, which cast them to `manual_cast`, if given."""

    manual_cast: torch.dtype | None = None
    copies: bool = True  # a host runs for days, in which its files may change

    @property
    def precision(self) -> torch.dtype:
        """The precision that a network computes in."""
        return self.manual_cast or self.dtype

    @property
    def ops(self) -> Any:
        """The host's layers; those whose weights the package reads lend them, cast and patched."""
        host = comfy.ops.pick_operations(self.dtype, self.precision)

        class Linear(Fetching, host.Linear):  # type: ignore[name-defined]
            """The host's linear layer; its kernels for some numbers take rows in few dimensions only."""

            def forward(self, x: Tensor) -> Tensor:
                y: Tensor = super().forward(x.flatten(0, -2))
                return y.unflatten(0, x.shape[:-1])

        class Conv2d(Fetching, host.Conv2d):  # type: ignore[name-defined]
            """The host's convolution."""

        others = {"ConvTranspose2d": host.ConvTranspose2d, "Embedding": host.Embedding}
        return SimpleNamespace(Linear=Linear, Conv2d=Conv2d, attend=attend, **others)

    def settle(self, network: Any) -> Any:
        """Return `network` as it is: the host moves it."""
        return network


def placement_for(weight_dtype: str) -> HostPlacement:
    """Return where a VAE's network runs: in the precision it is stored in, if the device can."""
    device = management.vae_device()
    dtype = DTYPES.get(weight_dtype) or management.vae_dtype(device, SUPPORTED)
    if device.type == "cpu":
        cast_to = Placement(device=device, dtype=dtype).precision
    else:
        cast_to = management.unet_manual_cast(dtype, device, SUPPORTED)
    return HostPlacement(dtype=dtype, manual_cast=cast_to)


def attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Return attention (N, heads, L, d) as the host was told to calculate it, on a CPU as PyTorch does."""
    if queries.device.type == "cpu":
        return ATTEND(queries, keys, values)
    heads, given = queries.shape[1], {"skip_reshape": True, "skip_output_reshape": True}
    found: Tensor = attention.optimized_attention(queries, keys, values, heads, **given)
    return found


class Fetching:
    """A layer of the host that lends its weights with patches, from wherever they are."""

    lent: Any = None  # what a newer host wants back, to make room for others

    def fetch(self, like: Tensor) -> Any:
        """Return weight and bias on the device and in the dtype of `like`."""
        if not hasattr(comfy.ops, "uncast_bias_weight"):
            return comfy.ops.cast_bias_weight(self, like)
        weight, bias, self.lent = comfy.ops.cast_bias_weight(self, like, offloadable=True)
        return weight, bias

    def release(self) -> None:
        """Take note that what was fetched is no longer needed."""
        if self.lent is not None:
            comfy.ops.uncast_bias_weight(self, None, None, self.lent)
            self.lent = None

"""Blocks that Stage B and Stage C share, and the norms of all networks.

Layers come from a namespace `ops` (default `torch.nn`), so that a host can put in layers that cast
or stream their own weights, and its own `attend`. A raw parameter in no such layer is cast where it
is used.

Shapes: N batch, C channels, H W rows and columns of a map, L tokens, D features of a token. Maps are
(N, C, H, W) tensors in channels-last memory, so that a change to (N, H, W, C) moves nothing.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .arithmetic import ATTEND, attend, linear, norm_over_map, product

EPS = 1e-6


class KeysValues(NamedTuple):
    """Attention keys and values of the text, each (N, heads, L, D / heads)."""

    keys: Tensor
    values: Tensor


class Share(NamedTuple):
    """What a constant map adds to the first product of a `ResBlock`.

    `features` (N, H, W, c) times `weight` (4 C, c), plus `bias` (4 C), which is beside the block's.
    """

    features: Tensor
    weight: Tensor
    bias: Tensor


class ResBlock(nn.Module):
    """Depthwise 3×3 convolution, then a two-layer perceptron per position (as ConvNeXt V2).

    The skip map joins after the norm, just before the first product: that product is a sum of one
    product per part, which lets a part that does not change be prepared (`Share`).
    """

    def __init__(
        self, c: int, *, c_skip: int = 0, kernel_size: int = 3, dropout: float = 0.0, ops: Any = nn
    ) -> None:
        super().__init__()
        self.depthwise = ops.Conv2d(
            c, c, kernel_size=kernel_size, padding=kernel_size // 2, groups=c
        )
        self.channelwise = nn.Sequential(
            ops.Linear(c + c_skip, c * 4),
            nn.GELU(),
            GlobalResponseNorm(c * 4),
            nn.Dropout(dropout),
            ops.Linear(c * 4, c),
        )

    def forward(self, x: Tensor, skip: Tensor | None = None, share: Share | None = None) -> Tensor:
        """Return the block's output, shape of `x` (N, C, H, W).

        `skip` (N, c, H, W) takes the columns of the first product that follow those of `x`.
        """
        y = to_rows(layer_norm_2d(self.depthwise(x)))
        if skip is not None:
            y = torch.cat([y, to_rows(skip)], dim=-1)
        expand, _, norm, dropout, contract = self.channelwise
        if share is None:
            y = linear(expand, y, activate=True)
        else:
            constant = product(share.features, share.weight, share.bias)
            y = F.gelu(linear(expand, y, columns=slice(y.shape[-1]), plus=constant))
        return to_map(linear(contract, dropout(norm(y)), plus=to_rows(x)))


class GlobalResponseNorm(nn.Module):
    """Contrast between channels by their energy over the whole map (Woo et al. 2023, section 4)."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, c))
        self.beta = nn.Parameter(torch.zeros(1, 1, 1, c))

    def forward(self, x: Tensor) -> Tensor:
        """Return the normed rows, shape of `x` (N, H, W, C). Energies are summed in float32."""
        energy = norm_over_map(x)
        relative = energy / (energy.mean(dim=-1, keepdim=True) + EPS)
        scale = 1 + self.gamma.to(relative) * relative
        return torch.addcmul(self.beta.to(x), x, scale.to(x.dtype))


class TimestepBlock(nn.Module):
    """Scale and shift of each channel by the time."""

    def __init__(self, c: int, c_r: int, ops: Any = nn) -> None:
        super().__init__()
        self.mapper = ops.Linear(c_r, c * 2)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return x · (1 + a) + b, shape of `x` (N, C, H, W); `t` is a time embedding (N, c_r)."""
        scale, shift = self.mapper(t)[:, :, None, None].chunk(2, dim=1)
        return torch.addcmul(shift, x, 1 + scale)


class AttnBlock(nn.Module):
    """Every position attends to all positions and to all text tokens."""

    def __init__(self, c: int, c_cond: int, heads: int, ops: Any = nn) -> None:
        super().__init__()
        self.attention = Attention(c, heads, ops)
        self.kv_mapper = nn.Sequential(nn.SiLU(), ops.Linear(c_cond, c))

    def prepare(self, text: Tensor) -> KeysValues:
        """Return the keys and values of `text` (N, L, c_cond): they do not depend on the time."""
        activate, mapper = self.kv_mapper
        return self.attention.keys_values(linear(mapper, activate(text)))

    def forward(self, x: Tensor, text: KeysValues) -> Tensor:
        """Return the block's output, shape of `x` (N, C, H, W)."""
        n, c, h, w = x.shape
        y = to_rows(layer_norm_2d(x)).reshape(n, h * w, c)
        return x + to_map(self.attention(y, text).reshape(n, h, w, c))


class Attention(nn.Module):
    """Multi-head attention over a sequence and its prepared context."""

    def __init__(self, c: int, heads: int, ops: Any = nn) -> None:
        super().__init__()
        self.heads = heads
        self.fused = getattr(ops, "attend", ATTEND)
        self.to_q = ops.Linear(c, c)
        self.to_k = ops.Linear(c, c)
        self.to_v = ops.Linear(c, c)
        self.to_out = nn.Sequential(ops.Linear(c, c))

    def keys_values(self, x: Tensor) -> KeysValues:
        """Return keys and values of `x` (N, L, D)."""
        keys, values = (linear(layer, x) for layer in (self.to_k, self.to_v))
        return KeysValues(split_heads(keys, self.heads), split_heads(values, self.heads))

    def forward(self, x: Tensor, context: KeysValues) -> Tensor:
        """Return the attended sequence, shape of `x` (N, L, D)."""
        own = self.keys_values(x)
        keys = torch.cat([own.keys, context.keys], dim=2)
        values = torch.cat([own.values, context.values], dim=2)
        y = attend(split_heads(linear(self.to_q, x), self.heads), keys, values, self.fused)
        return linear(self.to_out[0], y.transpose(1, 2).flatten(2))


class LayerNorm(nn.LayerNorm):
    """Layer norm whose weights are cast to the input's dtype and device when they are used."""

    def forward(self, x: Tensor) -> Tensor:
        scale, shift = self.weight.to(x), self.bias.to(x)
        return F.layer_norm(x, self.normalized_shape, scale, shift, self.eps)


class LayerNorm2d(nn.Module):
    """Norm over the channels of a map (N, C, H, W), without weights."""

    def forward(self, x: Tensor) -> Tensor:
        return layer_norm_2d(x)


class BatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose numbers are cast to the map's dtype and device when they are used."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return super().forward(x)
        numbers: Any = (self.weight, self.bias, self.running_mean, self.running_var)
        weight, bias, mean, var = (n.to(x.device, torch.float32)[:, None, None] for n in numbers)
        scale = weight * torch.rsqrt(var + self.eps)
        return torch.addcmul(bias - mean * scale, x.float(), scale).to(x.dtype)


def layer_norm_2d(x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
    """Return `x` (N, C, H, W) normed over C, then scaled and shifted by (C,), if they are given."""
    return to_map(F.layer_norm(to_rows(x), (x.shape[1],), scale, shift, eps=EPS))


def time_embedding(t: Tensor, c_r: int) -> Tensor:
    """Return sines and cosines (N, c_r) in float32 of the times `t` (N,) in [0, 1], 1 = noise."""
    half = c_r // 2
    steps = torch.arange(half, device=t.device, dtype=torch.float32)
    angles = (t.float() * 10000)[:, None] * torch.exp(steps * (-math.log(10000) / (half - 1)))
    return F.pad(torch.cat([angles.sin(), angles.cos()], dim=1), (0, c_r % 2))


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(N, L, D) -> (N, heads, L, D / heads)."""
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)


def to_rows(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, H, W, C)."""
    return x.permute(0, 2, 3, 1)


def to_map(x: Tensor) -> Tensor:
    """(N, H, W, C) -> (N, C, H, W)."""
    return x.permute(0, 3, 1, 2)

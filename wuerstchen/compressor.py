"""The semantic compressor: pixels -> semantic latent, EfficientNetV2-S with a 16-channel head.

Training uses it to make Stage C's targets and Stage B's conditions; painting from text does not need
it. Source: EfficientNetV2 (Tan and Le 2021, table 4); weights in the authors' `model_v2_stage_b.pt`.

Shapes: N batch, H W pixels in [0, 1], h w = about H / 42.67, W / 42.67 semantic cells. The output is
the raw latent that Stage B takes; Stage C works on z = (raw + 1) / 42.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import BatchNorm2d

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
STRIDE = 32


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A row of EfficientNetV2's table: `layers` blocks, the first with `stride`."""

    fused: bool
    expand: int
    stride: int
    c: int
    layers: int


@dataclass(frozen=True, kw_only=True)
class CompressorConfig:
    """Sizes of the network; the defaults are the published model.

    Raises:
        ValueError: if there is no stage or the strides do not multiply to 32.
    """

    c_latent: int = 16
    c_stem: int = 24
    stages: tuple[Stage, ...] = (
        Stage(fused=True, expand=1, stride=1, c=24, layers=2),
        Stage(fused=True, expand=4, stride=2, c=48, layers=4),
        Stage(fused=True, expand=4, stride=2, c=64, layers=4),
        Stage(fused=False, expand=4, stride=2, c=128, layers=6),
        Stage(fused=False, expand=6, stride=1, c=160, layers=9),
        Stage(fused=False, expand=6, stride=2, c=256, layers=15),
    )
    c_head: int = 1280

    def __post_init__(self) -> None:
        stride = 2
        for stage in self.stages:
            stride *= stage.stride
        if stride != STRIDE:
            raise ValueError(
                f"the strides of stem and stages must multiply to {STRIDE}, got {stride}"
            )


class Compressor(nn.Module):
    """EfficientNetV2 and a linear map to the semantic latent."""

    def __init__(self, config: CompressorConfig | None = None, ops: Any = nn) -> None:
        super().__init__()
        self.config = config = config or CompressorConfig()
        self.backbone = nn.Sequential(conv_norm(3, config.c_stem, 3, 2, ops=ops))
        c = config.c_stem
        for stage in config.stages:
            blocks = nn.Sequential()
            for i in range(stage.layers):
                kind = FusedMBConv if stage.fused else MBConv
                blocks.append(kind(c, stage.c, stage.expand, stage.stride if i == 0 else 1, ops))
                c = stage.c
            self.backbone.append(blocks)
        self.backbone.append(conv_norm(c, config.c_head, 1, 1, ops=ops))
        self.mapper = nn.Sequential(
            ops.Conv2d(config.c_head, config.c_latent, kernel_size=1, bias=False),
            BatchNorm2d(config.c_latent),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the raw latent (N, c_latent, H / 32, W / 32) of prepared pixels (N, 3, H, W)."""
        latent: Tensor = self.mapper(
            self.backbone(pixels.contiguous(memory_format=torch.channels_last))
        )
        return latent


class FusedMBConv(nn.Module):
    """A full 3×3 convolution, then a projection (no projection if nothing was expanded)."""

    def __init__(self, c_in: int, c_out: int, expand: int, stride: int, ops: Any = nn) -> None:
        super().__init__()
        self.is_residual = stride == 1 and c_in == c_out
        if expand == 1:
            self.block = nn.Sequential(conv_norm(c_in, c_out, 3, stride, ops=ops))
        else:
            self.block = nn.Sequential(
                conv_norm(c_in, c_in * expand, 3, stride, ops=ops),
                conv_norm(c_in * expand, c_out, 1, 1, activate=False, ops=ops),
            )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x)
        return x + y if self.is_residual else y


class MBConv(nn.Module):
    """Expansion, depthwise 3×3, channel gates, projection."""

    def __init__(self, c_in: int, c_out: int, expand: int, stride: int, ops: Any = nn) -> None:
        super().__init__()
        self.is_residual = stride == 1 and c_in == c_out
        c = c_in * expand
        self.block = nn.Sequential(
            conv_norm(c_in, c, 1, 1, ops=ops),
            conv_norm(c, c, 3, stride, groups=c, ops=ops),
            SqueezeExcite(c, max(1, c_in // 4), ops),
            conv_norm(c, c_out, 1, 1, activate=False, ops=ops),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x)
        return x + y if self.is_residual else y


class SqueezeExcite(nn.Module):
    """Gates in (0, 1) for each channel, from the channel means (Hu et al. 2018)."""

    def __init__(self, c: int, c_squeezed: int, ops: Any = nn) -> None:
        super().__init__()
        self.fc1 = ops.Conv2d(c, c_squeezed, kernel_size=1)
        self.fc2 = ops.Conv2d(c_squeezed, c, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        gates = self.fc2(F.silu(self.fc1(x.mean(dim=(2, 3), keepdim=True))))
        return x * torch.sigmoid(gates)


def conv_norm(
    c_in: int,
    c_out: int,
    kernel_size: int,
    stride: int,
    *,
    groups: int = 1,
    activate: bool = True,
    ops: Any = nn,
) -> nn.Sequential:
    """Return convolution, batch norm and, if asked, SiLU."""
    conv = ops.Conv2d(
        c_in, c_out, kernel_size, stride=stride, padding=kernel_size // 2, groups=groups, bias=False
    )
    layers: list[nn.Module] = [conv, BatchNorm2d(c_out, eps=1e-3)]
    return nn.Sequential(*layers, nn.SiLU()) if activate else nn.Sequential(*layers)


def prepare_pixels(pixels: Tensor) -> Tensor:
    """Return pixels (N, 3, H, W) in [0, 1] as the compressor wants them.

    Each side becomes 32 pixels per semantic cell, 0.75 of the picture; colours are normed as ImageNet's.
    """
    size = [max(STRIDE, round(side * 0.75 / STRIDE) * STRIDE) for side in pixels.shape[2:]]
    resized = F.interpolate(
        pixels.float(), size=size, mode="bilinear", antialias=True, align_corners=False
    )
    mean, std = (
        torch.tensor(numbers, dtype=torch.float32, device=pixels.device).view(1, 3, 1, 1)
        for numbers in (MEAN, STD)
    )
    return (resized - mean) / std

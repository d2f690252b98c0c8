"""Stage A, the VQGAN: VQ latent <-> pixels, four times smaller along each side.

Würstchen v2 uses it as a continuous autoencoder: the codebook exists, but decoding does not quantise.
Source: Paella (Rampas et al. 2022) and the published checkpoint `warp-ai/wuerstchen`, folder `vqgan`.

Shapes: N batch, H W pixels in [0, 1], h w = H / 4, W / 4 cells of the VQ latent. A VQ latent is in
Stage B's units, the encoder's output divided by `scale_factor`.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .arithmetic import linear
from .layers import BatchNorm2d, layer_norm_2d, to_map, to_rows

BAND = 4096  # positions at once, so that they stay in a CPU's cache


@dataclass(frozen=True, kw_only=True)
class StageAConfig:
    """Sizes of the network; the defaults are the published model.

    Raises:
        ValueError: if a size is not positive.
    """

    in_channels: int = 3
    out_channels: int = 3
    up_down_scale_factor: int = 2
    levels: int = 2
    bottleneck_blocks: int = 12
    embed_dim: int = 384
    latent_channels: int = 4
    num_vq_embeddings: int = 8192
    scale_factor: float = 0.3764

    def __post_init__(self) -> None:
        sizes = (self.in_channels, self.out_channels, self.up_down_scale_factor, self.levels)
        if min(*sizes, self.embed_dim, self.latent_channels, self.num_vq_embeddings) < 1:
            raise ValueError(f"Stage A sizes must be positive, got {self}")
        if self.scale_factor <= 0:
            raise ValueError(f"scale_factor must be positive, got {self.scale_factor}")

    @property
    def downscale(self) -> int:
        """Pixels per latent cell along each side."""
        return int(self.up_down_scale_factor * 2 ** (self.levels - 1))


class StageA(nn.Module):
    """The autoencoder between pixels and the VQ latent."""

    def __init__(self, config: StageAConfig | None = None, ops: Any = nn) -> None:
        super().__init__()
        self.config = config = config or StageAConfig()
        widths = [config.embed_dim // 2**i for i in reversed(range(config.levels))]
        scale, latent = config.up_down_scale_factor, config.latent_channels
        self.in_block = nn.Sequential(
            nn.PixelUnshuffle(scale),
            ops.Conv2d(config.in_channels * scale**2, widths[0], kernel_size=1),
        )
        self.down_blocks = nn.Sequential()
        for i, width in enumerate(widths):
            if i > 0:
                self.down_blocks.append(
                    ops.Conv2d(widths[i - 1], width, kernel_size=4, stride=2, padding=1)
                )
            self.down_blocks.append(MixBlock(width, ops))
        self.down_blocks.append(
            nn.Sequential(
                ops.Conv2d(widths[-1], latent, kernel_size=1, bias=False), BatchNorm2d(latent)
            )
        )
        self.vquantizer = Codebook(config.num_vq_embeddings, latent, ops)
        self.up_blocks = nn.Sequential(nn.Sequential(ops.Conv2d(latent, widths[-1], kernel_size=1)))
        for i, width in reversed(list(enumerate(widths))):
            for _ in range(config.bottleneck_blocks if i == len(widths) - 1 else 1):
                self.up_blocks.append(MixBlock(width, ops))
            if i > 0:
                up = ops.ConvTranspose2d(width, widths[i - 1], kernel_size=4, stride=2, padding=1)
                self.up_blocks.append(up)
        self.out_block = nn.Sequential(
            ops.Conv2d(widths[0], config.out_channels * scale**2, kernel_size=1),
            nn.PixelShuffle(scale),
        )

    def encode(self, pixels: Tensor) -> Tensor:
        """Return the VQ latent (N, 4, h, w) of `pixels` (N, 3, H, W) in [0, 1].

        Raises:
            ValueError: if H or W is not a multiple of the config's `downscale`.
        """
        multiple = self.config.downscale
        if pixels.shape[2] % multiple or pixels.shape[3] % multiple:
            sides = tuple(pixels.shape[2:])
            raise ValueError(
                f"rows and columns of the picture must be multiples of {multiple}, got {sides}"
            )
        x = self.in_block(pixels.contiguous(memory_format=torch.channels_last))
        latent: Tensor = self.down_blocks(x) / self.config.scale_factor
        return latent

    def decode(self, latent: Tensor) -> Tensor:
        """Return pixels (N, 3, H, W), about [0, 1] and not clamped, of a VQ latent (N, 4, h, w)."""
        x = latent.contiguous(memory_format=torch.channels_last) * self.config.scale_factor
        pixels: Tensor = self.out_block(self.up_blocks(x))
        return pixels

    def quantize(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Return `latent` (N, 4, h, w) with each cell at its nearest codebook entry, and their indices.

        The indices are (N, h, w), int64, in [0, num_vq_embeddings).
        """
        scale = self.config.scale_factor
        entries, indices = self.vquantizer(to_rows(latent * scale))
        return to_map(entries) / scale, indices


class MixBlock(nn.Module):
    """Depthwise convolution and per-position perceptron, each scaled and shifted by learnt scalars."""

    def __init__(self, c: int, ops: Any = nn) -> None:
        super().__init__()
        self.depthwise = nn.Sequential(ReplicationPad(), ops.Conv2d(c, c, kernel_size=3, groups=c))
        self.channelwise = nn.Sequential(ops.Linear(c, c * 4), nn.GELU(), ops.Linear(c * 4, c))
        self.gammas = nn.Parameter(torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, shape of `x` (N, C, H, W)."""
        g = self.gammas.to(x)[:, None].expand(6, x.shape[1])
        # a map that has no name is freed as soon as it has been used
        return to_map(torch.cat(self.mix_channels(self.mix_positions(x, *g[:3]), *g[3:]), dim=1))

    def mix_positions(self, x: Tensor, scale: Tensor, shift: Tensor, factor: Tensor) -> Tensor:
        """Return `x` (N, C, H, W) and what each channel makes of a position and its neighbours.

        Scale, shift and factor are learnt scalars, each as (C,).
        """
        pad, conv = self.depthwise
        return torch.addcmul(x, conv(pad(layer_norm_2d(x, 1 + scale, shift))), factor[0])

    def mix_channels(self, x: Tensor, scale: Tensor, shift: Tensor, factor: Tensor) -> list[Tensor]:
        """Return the rows of `x` (N, C, H, W) and what each position makes of its channels, in bands.

        Scale, shift and factor are learnt scalars, each as (C,).
        """
        expand, _, contract = self.channelwise
        scale, mixed = 1 + scale, []
        for part in bands(x):
            y = to_rows(layer_norm_2d(to_map(part), scale, shift))
            y = linear(contract, linear(expand, y, activate=True))
            mixed.append(torch.addcmul(part, y, factor[0]))
        return mixed


class ReplicationPad(nn.Module):
    """A border of one cell that repeats the outermost ones.

    PyTorch's own gives up channels-last memory on CUDA.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` (N, C, H, W) with its border, (N, C, H + 2, W + 2)."""
        n, c, h, w = x.shape
        inner, padded = to_rows(x), x.new_empty(n, h + 2, w + 2, c)
        padded[:, 1:-1, 1:-1] = inner
        padded[:, 0, 1:-1], padded[:, -1, 1:-1] = inner[:, 0], inner[:, -1]
        padded[:, :, 0], padded[:, :, -1] = padded[:, :, 1], padded[:, :, -2]
        return to_map(padded)


def bands(x: Tensor) -> tuple[Tensor, ...]:
    """Return a map (N, C, H, W) as rows (N, H, W, C), in bands of about `BAND` positions.

    The perceptron is four times as wide as the map: as a whole it would take the most memory by far,
    and on a CPU as long to move as to calculate. Other devices take wider bands, to be occupied.
    """
    n, _, _, width = x.shape
    positions = BAND if x.device.type == "cpu" else 16 * BAND
    return torch.split(to_rows(x), max(1, positions // (n * width)), dim=1)


class Codebook(nn.Module):
    """The table of VQ entries."""

    def __init__(self, entries: int, c: int, ops: Any = nn) -> None:
        super().__init__()
        self.embedding = ops.Embedding(entries, c)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the nearest entries and their indices for rows `x` (N, h, w, c)."""
        table = self.embedding.weight.to(x)
        indices = (
            torch.cdist(x.flatten(0, 2).float(), table.float()).argmin(dim=1).view(x.shape[:3])
        )
        return F.embedding(indices, table), indices

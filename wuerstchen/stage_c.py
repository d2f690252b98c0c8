"""Stage C, the prior: text features -> semantic latent, by diffusion.

A flat stack of convolution, time and attention blocks at the latent's own resolution; the latent is
42.67 times smaller than the picture. Source: "Würstchen" (Pernias et al. 2023, section 3); module
names and numbers as in the published checkpoint `warp-ai/wuerstchen-prior`.

Shapes: N batch, h w semantic cells, L text tokens, D features of a token.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .layers import AttnBlock, KeysValues, LayerNorm2d, ResBlock, TimestepBlock, time_embedding


@dataclass(frozen=True, kw_only=True)
class StageCConfig:
    """Sizes of the network; the defaults are the published model.

    Raises:
        ValueError: if a size is not positive or the heads do not divide the channels.
    """

    c_in: int = 16
    c: int = 1536
    c_cond: int = 1280
    c_r: int = 64
    depth: int = 32
    nhead: int = 24
    dropout: float = 0.1

    def __post_init__(self) -> None:
        sizes = (self.c_in, self.c, self.c_cond, self.c_r, self.depth, self.nhead)
        if min(sizes) < 1:
            raise ValueError(f"Stage C sizes must be positive, got {self}")
        if self.c % self.nhead:
            raise ValueError(f"nhead must divide c = {self.c}, got {self.nhead}")


class StageC(nn.Module):
    """The prior network. It predicts the noise in a semantic latent."""

    def __init__(self, config: StageCConfig | None = None, ops: Any = nn) -> None:
        super().__init__()
        self.config = config = config or StageCConfig()
        c = config.c
        self.projection = ops.Conv2d(config.c_in, c, kernel_size=1)
        self.cond_mapper = nn.Sequential(
            ops.Linear(config.c_cond, c), nn.LeakyReLU(0.2), ops.Linear(c, c)
        )
        self.blocks = nn.ModuleList()
        for _ in range(config.depth):
            self.blocks.append(ResBlock(c, dropout=config.dropout, ops=ops))
            self.blocks.append(TimestepBlock(c, config.c_r, ops))
            self.blocks.append(AttnBlock(c, c, config.nhead, ops))
        self.out = nn.Sequential(LayerNorm2d(), ops.Conv2d(c, config.c_in * 2, kernel_size=1))

    def prepare(self, text: Tensor) -> list[KeysValues]:
        """Return what does not change from step to step: the text's keys and values per block.

        Args:
            text: features of the prompt, (N, L, c_cond); its dtype is the one the network runs in.
        """
        mapped = self.cond_mapper(text)
        return [block.prepare(mapped) for block in self.blocks if isinstance(block, AttnBlock)]

    def step(self, x: Tensor, t: Tensor, constants: list[KeysValues]) -> Tensor:
        """Return the noise predicted in `x`, float32, same shape.

        Args:
            x: noisy latent, (N, c_in, h, w), float32.
            t: times in [0, 1], 1 = noise, (N,), float32.
            constants: from `prepare`, of the same batch.
        """
        dtype = constants[0].keys.dtype
        embedded = time_embedding(t, self.config.c_r).to(dtype)
        text = iter(constants)
        y = self.projection(x.to(dtype, memory_format=torch.channels_last))
        for block in self.blocks:
            if isinstance(block, AttnBlock):
                y = block(y, next(text))
            elif isinstance(block, TimestepBlock):
                y = block(y, embedded)
            else:
                y = block(y)
        a, b = self.out(y).float().chunk(2, dim=1)
        noise: Tensor = (x.float() - a) / ((1 - b).abs() + 1e-5)
        return noise

    def forward(self, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
        """Return `step` with constants prepared on the spot."""
        return self.step(x, t, self.prepare(text))

"""Stage B, the diffusion decoder: semantic latent (and text) -> VQ latent.

A U-Net on the VQ latent. The semantic latent ("effnet") is resized to each level and joins every
convolution block. Source: "Würstchen" (Pernias et al. 2023, section 3); module names and numbers as
in the published checkpoint `warp-ai/wuerstchen`.

Shapes: N batch, H W cells of the VQ latent (4 times smaller than the picture), h w semantic cells
(42.67 times smaller), L text tokens, D features of a token.
"""

from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .arithmetic import is_replaced, release, weight_and_bias
from .layers import (
    AttnBlock,
    KeysValues,
    LayerNorm2d,
    ResBlock,
    Share,
    TimestepBlock,
    time_embedding,
    to_rows,
)

LevelConstants = list[KeysValues | Share | None]


@dataclass(frozen=True, kw_only=True)
class StageBConfig:
    """Sizes of the network; the defaults are the published model. One entry per level, fine first.

    Raises:
        ValueError: if the lists differ in length, `level_config` holds other letters than C, T and A,
            or a level has heads that do not divide it.
    """

    c_in: int = 4
    c_out: int = 4
    c_r: int = 64
    patch_size: int = 2
    c_cond: int = 1024
    c_hidden: tuple[int, ...] = (320, 640, 1280, 1280)
    nhead: tuple[int, ...] = (-1, 10, 20, 20)
    blocks: tuple[int, ...] = (4, 4, 14, 4)
    level_config: tuple[str, ...] = ("CT", "CTA", "CTA", "CTA")
    inject_effnet: tuple[bool, ...] = (False, True, True, True)
    effnet_embd: int = 16
    clip_embd: int = 1024
    kernel_size: int = 3
    dropout: float = 0.1

    def __post_init__(self) -> None:
        levels = (self.c_hidden, self.nhead, self.blocks, self.level_config, self.inject_effnet)
        if len({len(entries) for entries in levels}) != 1 or not self.c_hidden:
            raise ValueError(f"Stage B needs one entry per level in every list, got {self}")
        for c, heads, kinds in zip(self.c_hidden, self.nhead, self.level_config, strict=True):
            if not set(kinds) <= set("CTA"):
                raise ValueError(f"level_config may hold C, T and A, got {kinds!r}")
            if "A" in kinds and (heads < 1 or c % heads):
                raise ValueError(f"nhead must divide c_hidden = {c}, got {heads}")

    @property
    def granularity(self) -> int:
        """Rows and columns of the VQ latent must be multiples of this."""
        return int(self.patch_size * 2 ** (len(self.c_hidden) - 1))


class StageBConstants(NamedTuple):
    """What a run needs once: one entry per block of each level, None where nothing is constant."""

    down: list[LevelConstants]
    up: list[LevelConstants]
    dtype: torch.dtype


class StageB(nn.Module):
    """The decoder network. It predicts the noise in a VQ latent."""

    def __init__(self, config: StageBConfig | None = None, ops: Any = nn) -> None:
        super().__init__()
        self.config = config = config or StageBConfig()
        c, levels = config.c_hidden, len(config.c_hidden)
        patch = config.patch_size
        self.clip_mapper = ops.Linear(config.clip_embd, config.c_cond)
        mappers: list[Any] = [
            ops.Conv2d(config.effnet_embd, config.c_cond, kernel_size=1) if inject else None
            for inject in config.inject_effnet + config.inject_effnet[::-1]
        ]
        self.effnet_mappers = nn.ModuleList(mappers)
        self.embedding = nn.Sequential(
            nn.PixelUnshuffle(patch),
            ops.Conv2d(config.c_in * patch**2, c[0], kernel_size=1),
            LayerNorm2d(),
        )
        self.down_blocks = nn.ModuleList()
        for i in range(levels):
            level = nn.ModuleList()
            if i > 0:
                level.append(
                    nn.Sequential(
                        LayerNorm2d(), ops.Conv2d(c[i - 1], c[i], kernel_size=2, stride=2)
                    )
                )
            level.extend(self._blocks(i, 0, ops))
            self.down_blocks.append(level)
        self.up_blocks = nn.ModuleList()
        for i in reversed(range(levels)):
            level = nn.ModuleList(self._blocks(i, c[i] if i < levels - 1 else 0, ops))
            if i > 0:
                up = ops.ConvTranspose2d(c[i], c[i - 1], kernel_size=2, stride=2)
                level.append(nn.Sequential(LayerNorm2d(), up))
            self.up_blocks.append(level)
        self.clf = nn.Sequential(
            LayerNorm2d(),
            ops.Conv2d(c[0], 2 * config.c_out * patch**2, kernel_size=1),
            nn.PixelShuffle(patch),
        )

    def _blocks(self, i: int, c_skip: int, ops: Any) -> list[nn.Module]:
        """Return the blocks of level `i`; the first also takes `c_skip` channels from the way down."""
        config = self.config
        c, c_effnet = config.c_hidden[i], config.c_cond if config.inject_effnet[i] else 0
        blocks: list[nn.Module] = []
        for kind in config.level_config[i] * config.blocks[i]:
            if kind == "C":
                skips = c_effnet + (0 if blocks else c_skip)
                blocks.append(
                    ResBlock(
                        c,
                        c_skip=skips,
                        kernel_size=config.kernel_size,
                        dropout=config.dropout,
                        ops=ops,
                    )
                )
            elif kind == "T":
                blocks.append(TimestepBlock(c, config.c_r, ops))
            else:
                blocks.append(AttnBlock(c, config.c_cond, config.nhead[i], ops))
        return blocks

    def prepare(self, text: Tensor, effnet: Tensor, size: tuple[int, int]) -> StageBConstants:
        """Return what does not change from step to step.

        Args:
            text: features of the prompt, (N, L, clip_embd); its dtype is the one the network runs in.
            effnet: raw semantic latent 42 z - 1, (N, effnet_embd, h, w).
            size: rows and columns H, W of the VQ latent.

        Raises:
            ValueError: if H or W is not a multiple of the config's `granularity`, or somebody replaced
                what layers do.
        """
        multiple = self.config.granularity
        if any(side % multiple for side in size):
            raise ValueError(
                f"rows and columns of the VQ latent must be multiples of {multiple}, got {size}"
            )
        mapped = self.clip_mapper(text)
        mapped = F.layer_norm(mapped, mapped.shape[-1:], eps=1e-6)
        levels = len(self.down_blocks)
        constants: list[LevelConstants] = []
        blocks: Any = chain(self.down_blocks, self.up_blocks)
        for i, level in enumerate(blocks):
            scale = self.config.patch_size * 2 ** min(i, 2 * levels - 1 - i)
            mapper = self.effnet_mappers[i]
            features = None
            if mapper is not None:
                resized = resize_effnet(effnet, (size[0] // scale, size[1] // scale))
                features = resized.to(text.dtype)
            constants.append([prepare_block(block, mapped, features, mapper) for block in level])
        return StageBConstants(constants[:levels], constants[levels:], text.dtype)

    def step(self, x: Tensor, t: Tensor, constants: StageBConstants) -> Tensor:
        """Return the noise predicted in `x`, float32, same shape.

        Args:
            x: noisy VQ latent, (N, c_in, H, W), float32.
            t: times in [0, 1], 1 = noise, (N,), float32.
            constants: from `prepare`, of the same batch and size.
        """
        embedded = time_embedding(t, self.config.c_r).to(constants.dtype)
        y = self.embedding(x.to(constants.dtype, memory_format=torch.channels_last))
        skips: list[Tensor] = []
        for level, given in zip(self.down_blocks, constants.down, strict=True):
            y = run_level(level, given, y, embedded)
            skips.append(y)
        y = skips.pop()
        for i, (level, given) in enumerate(zip(self.up_blocks, constants.up, strict=True)):
            y = run_level(level, given, y, embedded, skip=skips.pop() if i > 0 else None)
        a, b = self.clf(y).float().chunk(2, dim=1)
        noise: Tensor = (x.float() - a) / (b.sigmoid() * (1 - 2e-3) + 1e-3)
        return noise

    def forward(self, x: Tensor, t: Tensor, text: Tensor, effnet: Tensor) -> Tensor:
        """Return `step` with constants prepared on the spot.

        Raises:
            ValueError: as `prepare`.
        """
        return self.step(x, t, self.prepare(text, effnet, (x.shape[2], x.shape[3])))


def run_level(
    level: nn.Module, given: LevelConstants, x: Tensor, t: Tensor, skip: Tensor | None = None
) -> Tensor:
    """Return `x` (N, C, H, W) after all blocks of one level.

    `skip` joins the first of them, if that is a convolution block; else it is dropped.
    """
    for block, constant in zip(level.children(), given, strict=True):
        if isinstance(block, ResBlock):
            x = block(x, skip=skip, share=constant)
        elif isinstance(block, TimestepBlock):
            x = block(x, t)
        elif isinstance(block, AttnBlock):
            x = block(x, constant)
        else:
            x = block(x)
        skip = None
    return x


def prepare_block(
    block: nn.Module, text: Tensor, features: Tensor | None, mapper: Any
) -> KeysValues | Share | None:
    """Return the constant of one block: the text for attention, the effnet share for convolution.

    The mapper (1×1, 16 -> c_cond channels) and the block's first product are both linear, so their
    product is one matrix with 16 columns: exact, and c_cond / 16 times less work in every step. It is
    made in float32, so that half precision rounds it once.

    Raises:
        ValueError: if somebody replaced what mapper or product do.
    """
    if isinstance(block, AttnBlock):
        return block.prepare(text)
    if not isinstance(block, ResBlock) or features is None:
        return None
    if is_replaced(mapper) or is_replaced(block.channelwise[0]):
        raise ValueError(
            "a layer of Stage B was replaced, perhaps for a LoRA that bypasses its weights; load "
            "that LoRA into the weights instead"
        )
    exact = features.float()
    narrow, offset = (part.clone() for part in weight_and_bias(mapper, exact))
    release(mapper)  # a layer may lend its weights into the memory of the one before
    wide, _ = weight_and_bias(block.channelwise[0], exact, slice(-len(narrow), None))
    folded = wide @ torch.cat([narrow.flatten(1), offset[:, None]], dim=1)
    release(block.channelwise[0])
    weight, bias = folded[:, :-1].contiguous(), folded[:, -1].contiguous()
    return Share(features, weight.to(features), bias.to(features))


def resize_effnet(effnet: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the semantic latent (N, c, h, w) at `size` as rows (N, H, W, c), float32."""
    small = effnet.float()
    if small.device.type == "mps":
        small = small.cpu()  # older versions of PyTorch have no such resize there
    resized = F.interpolate(small, size=size, mode="bicubic", antialias=True, align_corners=True)
    return to_rows(resized).contiguous().to(effnet.device)

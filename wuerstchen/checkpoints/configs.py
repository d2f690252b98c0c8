"""config.json, or the shapes of the tensors -> the sizes of a network."""

import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, fields
from math import isqrt
from typing import Any

from ..compressor import CompressorConfig, Stage
from ..stage_a import StageAConfig
from ..stage_b import StageBConfig
from ..stage_c import StageCConfig
from ..text_encoder import TextEncoderConfig
from .recognise import KINDS, Shapes

OLD_NAMES = {
    "stage_a": {
        "c_hidden": "embed_dim",
        "c_latent": "latent_channels",
        "codebook_size": "num_vq_embeddings",
    },
    "compressor": {"c_cond": "c_head"},
}
# Config entries that say nothing about the network: the latent's size is chosen at each run, the
# compressor's stages are known, and averaged weights come with how they were averaged.
UNUSED = {
    "stage_c": (
        "latent_size", "decay", "min_decay", "inv_gamma", "power", "optimization_step",
        "update_after_step", "use_ema_warmup",
    ),
    "compressor": ("effnet",),
}  # fmt: skip
# Kinds whose config.json transformers writes, with much that is ignored here; these entries must be
# there, since transformers' own defaults differ.
REQUIRED = {"text_encoder": ("hidden_act", "num_attention_heads")}

HEAD_DIM = 64
LETTERS = {"depthwise": "C", "mapper": "T", "attention.to_q": "A"}


def config_from_entries(kind: str, entries: Mapping[str, Any]) -> Any:
    """Return the config of a network from the entries of a config.json, old spellings included.

    Raises:
        ValueError: if an entry is unknown, of a wrong type or not allowed.
    """
    config, renames = KINDS[kind].config, OLD_NAMES.get(kind, {})
    defaults = {field.name: field.default for field in fields(config)}
    values: dict[str, Any] = {}
    for name in REQUIRED.get(kind, ()):
        if name not in entries:
            raise ValueError(f"config entry {name} is missing")
    for key, value in entries.items():
        if key.startswith("_") or key in UNUSED.get(kind, ()):
            continue
        name = renames.get(key, key)
        if name not in defaults:
            if kind in REQUIRED:
                continue
            raise ValueError(f"config entry {key!r} is unknown, known are {', '.join(defaults)}")
        values[name] = checked(name, value, defaults[name])
    return config(**values)


def checked(name: str, value: Any, like: Any) -> Any:
    """Return a config value in the type of its default `like`.

    Raises:
        ValueError: if it is of another type.
    """
    if isinstance(like, tuple) and isinstance(value, list | tuple):
        return tuple(checked(name, entry, like[0]) for entry in value)
    if isinstance(like, Stage) and isinstance(value, dict) and value.keys() == asdict(like).keys():
        return Stage(
            **{key: checked(key, entry, getattr(like, key)) for key, entry in value.items()}
        )
    if isinstance(like, float) and type(value) in (int, float):
        if not abs(value) <= sys.float_info.max:  # NaN is not, either
            raise ValueError(f"config entry {name} must be a finite number, got {value}")
        return float(value)
    if type(value) is not type(like):
        raise ValueError(f"config entry {name} must be like {like!r}, got {value!r}")
    return value


def blocks(config: Any) -> int:
    """Return how many blocks the network of a config is built of; each has a tensor at least."""
    if isinstance(config, StageAConfig):
        counts = [config.levels, config.bottleneck_blocks]
    elif isinstance(config, StageBConfig):
        units = (max(1, len(unit)) for unit in config.level_config)
        counts = [n * length for n, length in zip(config.blocks, units, strict=True)]
    elif isinstance(config, CompressorConfig):
        counts = [stage.layers for stage in config.stages]
    else:
        counts = [config.depth if isinstance(config, StageCConfig) else config.num_hidden_layers]
    return sum(max(0, count) for count in counts)


def config_from_shapes(kind: str, shapes: Shapes) -> Any:
    """Return the config of a network as far as its shapes tell, under published names.

    What no shape tells is as published: dropout, the VQ latent's scale, patches of 2, heads of 64.

    Raises:
        ValueError: if a size cannot be read off.
    """
    readers = {
        "stage_a": stage_a_config,
        "stage_b": stage_b_config,
        "stage_c": stage_c_config,
        "text_encoder": text_encoder_config,
    }
    if kind not in readers:
        return KINDS[kind].config()
    try:
        return readers[kind](shapes)
    except (LookupError, ZeroDivisionError) as error:
        raise ValueError(
            f"the sizes cannot be read off the tensors, {error} is missing or of another shape"
        ) from error


def stage_a_config(shapes: Shapes) -> StageAConfig:
    """Return Stage A's config; the pictures have three channels."""
    widths, latent = shapes["up_blocks.0.0.weight"][:2]
    levels = 1 + matches(shapes, r"down_blocks\.\d+\.weight")
    scale = isqrt(shapes["in_block.1.weight"][1] // 3)
    return StageAConfig(
        up_down_scale_factor=scale,
        levels=levels,
        bottleneck_blocks=matches(shapes, r"up_blocks\.\d+\.gammas") - (levels - 1),
        embed_dim=widths,
        latent_channels=latent,
        num_vq_embeddings=shapes["vquantizer.embedding.weight"][0],
    )


def stage_b_config(shapes: Shapes) -> StageBConfig:
    """Return Stage B's config."""
    widths, units, repeats = zip(*level_layouts(shapes), strict=True)
    inject = tuple(f"effnet_mappers.{i}.weight" in shapes for i in range(len(units)))
    default = StageBConfig()
    return StageBConfig(
        c_in=shapes["embedding.1.weight"][1] // default.patch_size**2,
        c_out=shapes["clf.1.weight"][0] // (2 * default.patch_size**2),
        c_r=next((shapes[key][1] for key in shapes if key.endswith(".mapper.weight")), default.c_r),
        c_cond=shapes["clip_mapper.weight"][0],
        c_hidden=widths,
        nhead=tuple(heads(c) if "A" in unit else -1 for c, unit in zip(widths, units, strict=True)),
        blocks=repeats,
        level_config=units,
        inject_effnet=inject,
        effnet_embd=shapes[f"effnet_mappers.{inject.index(True)}.weight"][1]
        if any(inject)
        else default.effnet_embd,
        clip_embd=shapes["clip_mapper.weight"][1],
        kernel_size=next(
            (shapes[key][-1] for key in shapes if key.endswith(".depthwise.weight")),
            default.kernel_size,
        ),
    )


def level_layouts(shapes: Shapes) -> list[tuple[int, str, int]]:
    """Return the width of each level of Stage B, its repeating unit of blocks, and how often.

    Raises:
        LookupError: if a level is missing.
    """
    pattern = r"down_blocks\.(\d+)\.(\d+)\.(depthwise|mapper|attention\.to_q)\.weight"
    widths: dict[int, int] = {}
    levels: dict[int, dict[int, str]] = {}
    for key, shape in shapes.items():
        if found := re.fullmatch(pattern, key):
            level, block, kind = int(found[1]), int(found[2]), found[3]
            levels.setdefault(level, {})[block] = LETTERS[kind]
            widths[level] = shape[0] // 2 if kind == "mapper" else shape[0]
    if not levels or max(levels) >= len(levels):
        raise LookupError(f"one of {len(levels)} levels of down_blocks")
    units = (repeating("".join(levels[i][j] for j in sorted(levels[i]))) for i in sorted(levels))
    return [(widths[i], unit, repeats) for i, (unit, repeats) in enumerate(units)]


def repeating(kinds: str) -> tuple[str, int]:
    """Return the shortest unit that the kinds of a level's blocks repeat, and how often."""
    length = (kinds + kinds).index(kinds, 1)
    return kinds[:length], len(kinds) // length


def stage_c_config(shapes: Shapes) -> StageCConfig:
    """Return Stage C's config."""
    c, c_in = shapes["projection.weight"][:2]
    return StageCConfig(
        c_in=c_in,
        c=c,
        c_cond=shapes["cond_mapper.0.weight"][1],
        c_r=shapes["blocks.1.mapper.weight"][1],
        depth=matches(shapes, r"blocks\.\d+\.depthwise\.weight"),
        nhead=heads(c),
    )


def text_encoder_config(shapes: Shapes) -> TextEncoderConfig:
    """Return the config of a text tower's network."""
    vocabulary, width = shapes["embeddings.token_embedding.weight"]
    return TextEncoderConfig(
        hidden_size=width,
        intermediate_size=shapes["encoder.layers.0.mlp.fc1.weight"][0],
        num_hidden_layers=matches(shapes, r"encoder\.layers\.\d+\.mlp\.fc1\.weight"),
        num_attention_heads=heads(width),
        vocab_size=vocabulary,
        max_position_embeddings=shapes["embeddings.position_embedding.weight"][0],
    )


def heads(c: int) -> int:
    """Return the number of attention heads of `c` channels by the published rule.

    Raises:
        ValueError: if the rule does not divide the channels.
    """
    if c % HEAD_DIM:
        raise ValueError(
            f"nhead cannot be read off the tensors unless {HEAD_DIM} divides the channels, got {c}"
        )
    return c // HEAD_DIM


def matches(shapes: Shapes, pattern: str) -> int:
    """Return how many names match."""
    return sum(re.fullmatch(pattern, key) is not None for key in shapes)


def summary(config: Any) -> str:
    """Return the sizes of a config that differ from the published model."""
    differing = [f for f in fields(config) if getattr(config, f.name) != f.default]
    return (
        ", ".join(f"{f.name} {getattr(config, f.name)}" for f in differing) or "the published sizes"
    )

"""A LoRA file -> updates by layer, each sure to fit.

A file holds two thin matrices per layer, under names that `names` knows, and may say an alpha:
the update is alpha / rank · up · down, or up · down without one. PEFT writes alpha elsewhere
(`peft`).

Shapes: up (rows, rank), down (rank, columns); those of a convolution have its kernel's sides
behind.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints.files import CheckpointError, Weights, first_line, read
from ..checkpoints.recognise import recognise, shortened
from ..checkpoints.sources import listing, resolve
from .names import (
    ALPHA,
    MATRIX,
    ROLES,
    Shapes,
    Target,
    addresses,
    bare,
    family_of,
    shapes_of,
)
from .peft import CONFIG_FILE, adapter_config, adapter_scale

FILES = (
    "pytorch_lora_weights.safetensors",
    "adapter_model.safetensors",
    "pytorch_lora_weights.bin",
    "adapter_model.bin",
)
EXPECTED = "a LoRA for Würstchen v2's Stage C (the prior) and its text tower"
ADVICE = "take one that was trained on this prior (published: warp-ai/wuerstchen-prior)"


@dataclass(frozen=True, kw_only=True)
class Update:
    """What a LoRA adds to one weight: `scale` (alpha / rank) times `up` times `down`."""

    up: Tensor
    down: Tensor
    scale: float


@dataclass(frozen=True, kw_only=True)
class Lora:
    """A LoRA whose every update fits the networks that it was loaded for."""

    path: Path
    updates: dict[Target, Update]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What a file holds for one name: tensors by role, for one layer or for three that are joined.

    Roles are "up", "down" and "alpha".
    """

    name: str
    targets: tuple[Target, ...]
    tensors: dict[str, Tensor]


def load_lora(
    source: str | Path, stage_c: nn.Module | None, text_tower: nn.Module | None = None
) -> Lora:
    """Return a LoRA, by the layers' own names.

    Args:
        source: weights file, a folder that holds one of `FILES`, or a Hub name.
        stage_c: the network that the LoRA is for; only the shapes of its weights are read.
        text_tower: the network of the text tower before Stage C, likewise.

    Raises:
        CheckpointError: if the source is missing or damaged, or anything in it does not fit.
    """
    path = lora_file(source)
    weights, shapes = with_alphas(read(path)[0]), shapes_of(stage_c, text_tower)
    found = sorted_out(weights, addresses(shapes))
    if differences := faults(found, shapes):
        raise CheckpointError(f"{path}: expected {EXPECTED}, found {differences}; {ADVICE}")
    config = adapter_config(path)
    try:
        return Lora(path=path, updates={t: u for f in found for t, u in split(f, config)})
    except (ArithmeticError, AttributeError, TypeError, ValueError, re.error) as error:
        raise CheckpointError(
            f"{path}: expected PEFT's adapter config with numbers for lora_alpha, found "
            f"{first_line(error)}; take the file without its {CONFIG_FILE} or header"
        ) from error


def lora_file(source: str | Path) -> Path:
    """Return the weights file that `source` names.

    Raises:
        CheckpointError: if it names none.
    """
    path = resolve(source, extras=[*FILES, CONFIG_FILE])
    if path.is_file():
        return path
    file = next((path / name for name in FILES if (path / name).is_file()), None)
    if file is None:
        raise CheckpointError(
            f"{source}: expected a LoRA file or a folder with {FILES[0]}, found {listing(path)}; "
            "give the file itself"
        )
    return file


def with_alphas(weights: Weights) -> Weights:
    """Return the weights with each alpha a tensor, also those that were saved as plain numbers."""
    numbers = {key: number for key, number in weights.numbers.items() if ALPHA.fullmatch(key)}
    alphas = {key: torch.tensor(in_range(number)) for key, number in numbers.items()}
    return replace(weights, tensors=weights.tensors | alphas)


def in_range(number: float) -> float:
    """Return a number as a float; a whole one beyond those is infinite."""
    try:
        return float(number)
    except OverflowError:
        return math.inf


def sorted_out(weights: Weights, names: Mapping[str, tuple[Target, ...]]) -> list[Entry]:
    """Return the file's tensors by layer; all of them belong to one.

    Raises:
        CheckpointError: if one does not, or is there twice.
    """
    found: dict[tuple[Target, ...], Entry] = {}
    unknown, duplicates = [], []
    for key, tensor in weights.tensors.items():
        match = MATRIX.fullmatch(key) or ALPHA.fullmatch(key)
        targets = names.get(bare(match["layer"])) if match else None
        if match is None or targets is None:
            unknown.append(key)
            continue
        role = match.groupdict().get("role", "alpha")
        entry = found.setdefault(targets, Entry(name=match["layer"], targets=targets, tensors={}))
        if entry.tensors.setdefault(ROLES.get(role, role), tensor) is not tensor:
            duplicates.append(key)
    if unknown or not found:
        raise not_a_lora(weights, unknown)
    joined = {target for targets in found if len(targets) > 1 for target in targets}
    duplicates += [
        entry.name for (target, *more), entry in found.items() if not more and target in joined
    ]
    if duplicates:
        raise CheckpointError(
            f"{weights.place}: expected {EXPECTED}, found more than one update for the same layer "
            f"({shortened(duplicates)}); save each LoRA as a file of its own"
        )
    return list(found.values())


def not_a_lora(weights: Weights, unknown: Sequence[str]) -> CheckpointError:
    """Return the error for a file with keys that fit no layer, or without any of a LoRA."""
    family = family_of(unknown)
    if not family and not any(MATRIX.fullmatch(key) for key in weights.tensors):
        what = recognise(weights.shapes).name
        family = "no LoRA known here" if what == "unknown" else what
    this = f"this is {family}" if family else "found one for other layers"
    keys = f"{len(unknown)} of {len(weights.tensors)} keys fit no layer"
    if unknown:
        keys += f": {shortened(list(unknown))}"
    return CheckpointError(f"{weights.place}: expected {EXPECTED}, {this} ({keys}); {ADVICE}")


def faults(found: Sequence[Entry], shapes: Shapes) -> str:
    """Return in words what is wrong with the tensors of a file, "" if nothing is."""
    groups: dict[str, list[str]] = {}
    for entry in found:
        tensors = entry.tensors
        missing = [role for role in ("up", "down") if role not in tensors]
        if missing:
            groups.setdefault(f"without {' and '.join(missing)}", []).append(entry.name)
            continue
        if wrong := wrong_shapes(entry, shapes):
            groups.setdefault("of another shape", []).append(f"{entry.name} {wrong}")
        floats = tensors["up"].is_floating_point() and tensors["down"].is_floating_point()
        real = floats and not any(tensor.is_complex() for tensor in tensors.values())
        if not real or not all(t.float().isfinite().all() for t in tensors.values()):
            groups.setdefault("with other than finite floats", []).append(entry.name)
    return "; ".join(
        f"{len(names)} layers {word} ({shortened(names)})" for word, names in groups.items()
    )


def wrong_shapes(entry: Entry, shapes: Shapes) -> str:
    """Return the wrong shapes in words, "" if they are right."""
    up, down = entry.tensors["up"], entry.tensors["down"]
    rows = sum(shapes[target][0] for target in entry.targets)
    columns = math.prod(shapes[entry.targets[0]][1:])
    rank = len(down) if down.ndim else 0
    alpha = entry.tensors.get("alpha")
    if (rank > 0 and up.ndim > 1 and down.ndim > 1) and (
        (len(up), math.prod(up.shape[1:]), math.prod(down.shape[1:])) == (rows, rank, columns)
    ):
        return "" if alpha is None or alpha.numel() == 1 else f"alpha {list(alpha.shape)}"
    return f"up {list(up.shape)} and down {list(down.shape)} for {rows} rows, {columns} columns"


def split(entry: Entry, config: Mapping[str, Any]) -> Iterator[tuple[Target, Update]]:
    """Yield the update of each layer that an entry is for."""
    up, down = entry.tensors["up"].detach(), entry.tensors["down"].detach()
    rank = len(down)
    if "alpha" in entry.tensors:
        scale = float(entry.tensors["alpha"]) / rank
    else:
        scale = adapter_scale(config, entry.targets[0], rank)
    for target, rows in zip(entry.targets, up.chunk(len(entry.targets)), strict=True):
        yield target, Update(up=rows, down=down, scale=scale)

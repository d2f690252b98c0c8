"""Blends: checkpoints of one shape -> the weighted mean of their tensors.

    base.safetensors*0.5+aesthetic.safetensors*0.5

The published default prior is such a blend: half the base model, half the one that was tuned for
looks. Shares add up to 1; a negative one leads away from a checkpoint (`a*1.5+b*-0.5`).

PyTorch is imported with the first tensor, so that words of the command line cost nothing.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

TOLERANCE = 1e-3
SHARE = re.compile(r"\*\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(?:\+(?=\s*\S)|$)")


def parse_blend(source: str | Path) -> list[tuple[str, float]] | None:
    """Return the sources and shares of "SOURCE*SHARE+SOURCE*SHARE", None if it is no blend.

    No blend is a `Path`, what exists under its name, and a text without any `*SHARE`.

    Raises:
        ValueError: if a part lacks its source or share, or the shares do not add up to 1.
    """
    if not isinstance(source, str) or os.path.exists(os.path.expanduser(source)):
        return None
    *parts, rest = SHARE.split(source)
    if not parts:
        return None
    sources, shares = [part.strip() for part in parts[::2]], [float(part) for part in parts[1::2]]
    if rest.strip() or not all(sources):
        raise ValueError(
            "a blend must be SOURCE*SHARE+SOURCE*SHARE, such as a.safetensors*0.5+"
            f"b.safetensors*0.5, got {source!r}"
        )
    total = sum(shares)
    if not abs(total - 1) < TOLERANCE + 1e-9:
        raise ValueError(f"the shares of a blend must add up to 1, got {total:g} in {source!r}")
    return list(zip(sources, shares, strict=True))


def blended(
    parts: "Sequence[tuple[str, Mapping[str, Tensor], float]]", dtype: "torch.dtype | None" = None
) -> "dict[str, Tensor]":
    """Return the weighted mean of state dicts.

    It is formed in float32 and cast once, one tensor at a time: in memory is the result, and what
    is mapped from a file stays so. Whole numbers are those of the first.

    Args:
        parts: place for messages, tensors by name, and share of each.
        dtype: precision of the result; None is that of each tensor of the first.

    Raises:
        CheckpointError: if they differ in names or shapes.
    """
    first, tensors, _ = parts[0]
    for place, others, _ in parts[1:]:
        check_alike(first, tensors, place, others)
    return {
        key: mean([(part[key], share) for _, part, share in parts]).to(dtype or tensor.dtype)
        if tensor.is_floating_point()
        else tensor
        for key, tensor in tensors.items()
    }


def mean(terms: "Sequence[tuple[Tensor, float]]") -> "Tensor":
    """Return the weighted mean in float32 of tensors of one shape; of two it is `torch.lerp`'s.

    One after the other is mixed in with its part of the shares so far. Shares below 0 come last, so
    that this sum stays above 0. What has no share is not read.
    """
    (tensor, total), *others = sorted((t for t in terms if t[1]), key=lambda term: term[1] < 0)
    result = tensor.float()
    for tensor, share in others:
        total += share
        result = result.lerp(tensor.float(), share / total)
    return result


def check_alike(
    place: str, tensors: "Mapping[str, Tensor]", other: str, others: "Mapping[str, Tensor]"
) -> None:
    """Refuse two state dicts that cannot be blended.

    Raises:
        CheckpointError: with the first tensor that differs, and both files.
    """
    from .files import CheckpointError

    for key in {**tensors, **others}:
        ours, theirs = sort_of(tensors.get(key)), sort_of(others.get(key))
        if ours != theirs:
            raise CheckpointError(
                f"{other}: expected the shapes of {place}, with which it is to be blended, found "
                f"{key} {theirs} instead of {ours}; blend checkpoints of one model"
            )


def sort_of(tensor: "Tensor | None") -> str:
    """Return in words what two tensors must have in common to be blended."""
    if tensor is None:
        return "missing"
    return f"{list(tensor.shape)}{'' if tensor.is_floating_point() else ' of whole numbers'}"

"""Blends: checkpoints of one shape -> the weighted mean of their tensors.

    base.safetensors*0.5+aesthetic.safetensors*0.5

The published default prior is such a blend: half the base model, half the one that was tuned for
looks. Shares add up to 1; a negative one leads away from a checkpoint (`a*1.5+b*-0.5`).
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .files import CheckpointError


def blended(
    parts: Sequence[tuple[str, Mapping[str, Tensor], float]], dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
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


def mean(terms: Sequence[tuple[Tensor, float]]) -> Tensor:
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
    place: str, tensors: Mapping[str, Tensor], other: str, others: Mapping[str, Tensor]
) -> None:
    """Refuse two state dicts that cannot be blended.

    Raises:
        CheckpointError: with the first tensor that differs, and both files.
    """
    for key in {**tensors, **others}:
        ours, theirs = shape_in_words(tensors.get(key)), shape_in_words(others.get(key))
        if ours != theirs:
            raise CheckpointError(
                f"{other}: expected the shapes of {place}, with which it is to be blended, found "
                f"{key} {theirs} instead of {ours}; blend checkpoints of one model"
            )


def shape_in_words(tensor: Tensor | None) -> str:
    """Return in words what two tensors must have in common to be blended."""
    if tensor is None:
        return "missing"
    return f"{list(tensor.shape)}{'' if tensor.is_floating_point() else ' of whole numbers'}"

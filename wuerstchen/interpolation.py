"""Paths between latents and between prompts: spherical interpolation (Shoemake 1985).

Numbers of high dimension that are spread like noise lie near a sphere; along the chord between two
of them they would be too small, and pictures pale. Along the arc they keep their size.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

NEARLY_PARALLEL = 0.9995


def slerp(start: Tensor, end: Tensor, share: float, dims: int = 1, centre: float = 0.0) -> Tensor:
    """Return what lies at `share` of the arc from `start` to `end`, same shape.

    Lengths change evenly from one to the other. Vectors that are nearly parallel, and zeros, are
    interpolated linearly.

    Args:
        start: (..., vector).
        end: the same shape.
        share: 0 is `start`, 1 is `end`, to the last bit.
        dims: how many of the last dimensions make a vector.
        centre: of the sphere, in each dimension; -1 for semantic latents 42 z - 1.
    """
    if share in (0, 1):
        return start if share == 0 else end.to(start.dtype)
    axes = tuple(range(-dims, 0))
    a, b = start.float() - centre, end.float() - centre
    tiny = torch.finfo(torch.float32).tiny
    length_a, length_b = (v.square().sum(axes, keepdim=True).sqrt() for v in (a, b))
    unit_a, unit_b = a / length_a.clamp(min=tiny), b / length_b.clamp(min=tiny)
    cosine = (unit_a * unit_b).sum(axes, keepdim=True)
    angle = cosine.clamp(-NEARLY_PARALLEL, NEARLY_PARALLEL).acos()
    along = torch.sin((1 - share) * angle) * unit_a + torch.sin(share * angle) * unit_b
    arc = along / torch.sin(angle) * torch.lerp(length_a, length_b, share)
    chord = torch.lerp(a, b, share)
    mixed = torch.where(cosine.abs() < NEARLY_PARALLEL, arc, chord)
    return (mixed + centre).to(start.dtype)


def frame_positions(stops: int, frames: int) -> Iterator[tuple[int, float]]:
    """Yield, for each frame, the stop that lies before it and the share of the way to the next.

    The first frame is at the first stop, the last one at the last.

    Raises:
        ValueError: if there are fewer than two stops or frames.
    """
    if stops < 2 or frames < 2:
        raise ValueError(
            f"a path needs at least 2 stops and 2 frames, got {stops} stops and {frames} frames"
        )
    for i in range(frames):
        way = i * (stops - 1) / (frames - 1)
        before = min(int(way), stops - 2)
        yield before, way - before


def interpolate(stops: Sequence[Tensor], frames: int, dims: int = 1, centre: float = 0.0) -> Tensor:
    """Return `frames` tensors along the path through `stops`, each (1, ...), as one (frames, ...).

    Raises:
        ValueError: as `frame_positions`, or if the stops differ in shape.
    """
    for one, other in pairwise(stops):
        if one.shape != other.shape:
            shapes = f"{list(one.shape)} and {list(other.shape)}"
            raise ValueError(f"what lies along a path must be of one shape, got {shapes}")
    return torch.cat(
        [
            slerp(stops[i], stops[i + 1], share, dims, centre)
            for i, share in frame_positions(len(stops), frames)
        ]
    )

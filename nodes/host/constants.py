"""What one call of a network is given beside its latent: its constants, and a frame around an area.

A network takes rows and columns in certain multiples only. Of a conditioning for some other area it
sees the smallest area of these multiples around, in which the latent goes on as in a mirror.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Frame(NamedTuple):
    """Cells around an area that make its rows and columns whole for the network."""

    top: int = 0
    bottom: int = 0
    left: int = 0
    right: int = 0


NO_FRAME = Frame()


@dataclass(frozen=True)
class Constants:
    """A network's constants, in a box that the host hands on unopened.

    They are for the latent of the call with a frame around it.
    """

    prepared: Any
    frame: Frame = NO_FRAME


def framed(call: Callable[[Tensor], Tensor], x: Tensor, frame: Frame) -> Tensor:
    """Return what a network says of `x`, which it sees continued as in a mirror all around."""
    if frame == NO_FRAME:
        return call(x)
    rows, columns = x.shape[2:]
    across, along = mirrored(rows, frame.top, frame.bottom), mirrored(columns, *frame[2:])
    noise = call(x[:, :, across.to(x.device)][:, :, :, along.to(x.device)])
    return noise[:, :, frame.top : frame.top + rows, frame.left : frame.left + columns]


def mirrored(length: int, before: int, after: int) -> Tensor:
    """Return the places 0 to `length` - 1, and on either side those that a mirror shows."""
    period = max(1, 2 * (length - 1))
    places = torch.arange(-before, length + after) % period
    return torch.minimum(places, period - places)


def on_grid(area: Sequence[int], multiple: int) -> tuple[tuple[int, int, int, int], Frame]:
    """Return the smallest area on multiples around another, and its frame around that.

    Areas are rows, columns, first row, first column.
    """
    (top, above, below), (left, before, after) = (
        (start - start % multiple, start % multiple, -(start + length) % multiple)
        for length, start in zip(area[:2], area[2:], strict=True)
    )
    frame = Frame(above, below, before, after)
    return (area[0] + above + below, area[1] + before + after, top, left), frame

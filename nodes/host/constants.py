"""What one call of a network is given beside its latent: conditionings, constants, a frame.

A call serves one or several conditionings, each a `StageCond`; together they become its `Constants`.
A network takes rows and columns in certain multiples only. Of a conditioning for some other area it
sees the smallest area of these multiples around, in which the latent goes on as in a mirror.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import comfy.conds
import comfy.utils
import torch
from torch import Tensor


class StageCond(comfy.conds.CONDRegular):
    """What one conditioning gives to a run; several become the constants of one call.

    Attributes:
        cond: features of the text, (1 or N, L, D).
        semantic: for Stage B, (1 or N, 16, h, w); None for Stage C.
        sides: rows and columns of the run's latent.
        batch: latents in the call.
        area: the part of the latent that the call is for: rows, columns, first row, first column.
    """

    def __init__(self, text: Tensor, semantic: Tensor | None, sides: tuple[int, int]) -> None:
        super().__init__(text)
        self.semantic, self.sides = semantic, sides
        self.source: Any = object()
        self.batch = 1
        self.area: tuple[int, int, int, int] | None = None

    def process_cond(self, batch_size: int, area: Any = None, **_: Any) -> "StageCond":
        """Return this for one call of the network."""
        one = copy.copy(self)
        one.batch, one.area = batch_size, None if area is None else tuple(area)
        return one

    def within(self, window: Any, n: int) -> "StageCond":
        """Return the rows of this that a context window has of a batch of `n` latents.

        Raises:
            ValueError: if the window is a part of each latent, and Stage B would need that too.
        """
        if window.dim != 0 and self.semantic is not None:
            raise ValueError(
                "context windows of Stage B go along the batch (dim 0); for parts of a picture give "
                "Würstchen Stage B Decode a tile_size"
            )
        one = copy.copy(self)
        if window.dim == 0:
            one.batch = n
            one.cond, one.semantic = (
                None if rows is None else window.get_tensor(one.repeated(rows), dim=0)
                for rows in (self.cond, self.semantic)
            )
            anchor = getattr(window, "causal_anchor_index", None)
            one.source = self.source, tuple(window.index_list), anchor
        return one

    def can_concat(self, other: "StageCond") -> bool:
        """Whether one call of the network can serve both."""
        if self.cond.shape[1:] != other.cond.shape[1:]:
            return False
        if self.semantic is None or other.semantic is None:
            return True
        return self.semantic.shape[1:] == other.semantic.shape[1:] and self.area == other.area

    def concat(self, others: "Sequence[StageCond]") -> "list[StageCond]":
        """Return all of one call."""
        return [self, *others]

    def repeated(self, tensor: Tensor | None) -> Tensor:
        """Return a row of `tensor` for each latent of the call."""
        return cast(Tensor, comfy.utils.repeat_to_batch_size(tensor, self.batch))


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

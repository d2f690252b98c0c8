"""Stage B in windows: large pictures on a device that holds one window at a time."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import comfy.model_management as management
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...wuerstchen.checks import check_whole
from ...wuerstchen.sizes import SMALLEST_TILE, VQ_PIXELS
from ...wuerstchen.tiling import Window, cover, cut, tiled
from .constants import Constants, framed


def in_windows(model: Any, tile: int) -> Any:
    """Return Stage B, run in overlapping windows of at most `tile` pixels in each step.

    Raises:
        ValueError: if `tile` is below `SMALLEST_TILE`.
    """
    check_whole("tile_size", tile, SMALLEST_TILE)
    multiple, side = model.model.diffusion_model.config.granularity, tile // VQ_PIXELS
    clone = model.clone()
    wrappers = {
        WrappersMP.PREPARE_SAMPLING: partial(prepare, tile=side),
        WrappersMP.DIFFUSION_MODEL: partial(step, tile=side, multiple=multiple),
    }
    for place, wrapper in wrappers.items():
        clone.add_wrapper_with_key(place, "wuerstchen", wrapper)
    return clone


def prepare(
    executor: Any, model: Any, shape: Sequence[int], *given: Any, tile: int, **others: Any
) -> Any:
    """Let the host make room for one window instead of a whole latent of `shape`."""
    window = [*shape[:2], *(min(side, tile) for side in shape[2:])]
    return executor(model, window, *given, **others)


def step(
    executor: Any, x: Tensor, timestep: Tensor, *, tile: int, multiple: int, **others: Any
) -> Tensor:
    """Return the noise that the network sees in `x`, put together from windows."""
    constants = others.pop("constants")

    def all_of(x: Tensor) -> Tensor:
        size = x.shape[2], x.shape[3]

        def one(window: Window, part: Tensor, timestep: Tensor) -> Tensor:
            management.throw_exception_if_processing_interrupted()
            own = Constants(cut(constants.prepared, size, window))
            return executor(part, timestep, constants=own, **others)

        pieces = cover(size, tile, multiple=multiple)
        return tiled(pieces, [partial(one, piece) for piece in pieces])(x, timestep)

    return framed(all_of, x, constants.frame)

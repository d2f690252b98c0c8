"""What is painted over: a picture on whole blocks of 128 pixels, and which part is painted anew.

    picture, mask ─fit, extend→ ─border→ canvas ─compressor, Stages C, B, A→ ─keep→ new picture

Only whole blocks fit through the stages, so a canvas has a border around the picture, which repeats
its edges and is cropped away in the end. A mask is 1 where a picture is painted anew and 0 where it
is kept; outside the mask the result has the given pixels, to the last bit.

Shapes: N batch, H W pixels, multiples of 128; h w semantic cells.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from .checks import check_whole
from .pixels import fitted, picture, to_pixels
from .settings import Settings
from .sizes import SMALLEST_SIDE, cells

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, eq=False)
class Canvas:
    """A picture to paint over.

    Attributes:
        pixels: (1, 3, H, W) in [0, 1].
        mask: (1, 1, H, W) in [0, 1].
        size: width and height of the picture in the middle.
    """

    pixels: Tensor
    mask: Tensor
    size: tuple[int, int]

    def cells(self, rows: int, columns: int) -> Tensor:
        """Return the mask (1, 1, rows, columns) in cells: 1 where any pixel is painted anew."""
        return F.adaptive_max_pool2d(self.mask, (rows, columns)).ceil()

    def keep(self, painted: Tensor, feather: int) -> Tensor:
        """Return `painted` (N, 3, H, W) with the given pixels outside the mask.

        Within the mask, painted pixels take over along `feather` pixels.
        """
        return torch.lerp(self.pixels, painted, feathered(self.mask, feather))


def canvas_for(settings: Settings) -> Canvas:
    """Return the canvas that settings with an image ask for.

    Raises:
        OSError: if a file is not there.
        ValueError: if a file is no picture, or the mask is of another size.
    """
    image = picture(settings.image, "RGB")
    mask = None if settings.mask is None else picture(settings.mask, "L")
    if mask is not None:
        check_mask(mask, image.size, may_keep_all=any(settings.outpaint))
    size = settings.width or image.width, settings.height or image.height
    check_sides(*size)
    pixels = to_pixels(fitted(image, size))
    if mask is None:
        anew = torch.full_like(pixels[:, :1], 0.0 if any(settings.outpaint) else 1.0)
    else:
        anew = to_pixels(fitted(mask, size))
    left, top, right, bottom = settings.outpaint
    around = (left, right, top, bottom)
    return bordered(F.pad(pixels, around, mode="replicate"), F.pad(anew, around, value=1.0))


def check_mask(mask: "Image", size: tuple[int, int], may_keep_all: bool) -> None:
    """Refuse a mask of another size than the image's, or without white.

    Raises:
        ValueError: with the rule.
    """
    if mask.size != size:
        wanted, found = (f"{width}×{height}" for width, height in (size, mask.size))
        raise ValueError(f"the mask must be of the image's size, {wanted}, got {found}; resize it")
    largest = mask.getextrema()[1]
    if largest == 1:
        raise ValueError("the mask must be white, 255, where to paint, its largest level is 1")
    if largest == 0 and not may_keep_all:
        raise ValueError("the mask must be white somewhere, where to paint; it is black all over")


def canvas_key(settings: Settings) -> Hashable:
    """Return a key that is the same for settings that ask for the same canvas."""
    named = [
        source if source is None or isinstance(source, (str, Path)) else id(source)
        for source in (settings.image, settings.mask)
    ]
    return *named, settings.width, settings.height, tuple(settings.outpaint)


def bordered(pixels: Tensor, mask: Tensor) -> Canvas:
    """Return the canvas of `pixels` (1, 3, ...) and `mask` (1, 1, ...) with a border around.

    Raises:
        ValueError: if a side is below 128 pixels.
    """
    height, width = pixels.shape[2:]
    border = []
    check_sides(width, height)
    for side in (width, height):
        missing = cells(side).pixels - side
        border += [missing // 2, missing - missing // 2]
    padded = [F.pad(part, border, mode="replicate") for part in (pixels, mask)]
    return Canvas(padded[0], padded[1], (width, height))


def check_sides(width: int, height: int) -> None:
    """Refuse an image with a side below 128 pixels.

    Raises:
        ValueError: with the side.
    """
    for name, side in (("width", width), ("height", height)):
        check_whole(f"the {name} of the image", side, SMALLEST_SIDE)


def feathered(mask: Tensor, width: int) -> Tensor:
    """Return `mask` (N, 1, H, W) with soft edges: 0 outside as before, 1 from `width` pixels inside on.

    Where the mask is narrower than that, its middle is still 1.
    """
    total = inner = mask
    for left in reversed(range(width)):
        inner = -F.max_pool2d(-inner, 3, stride=1, padding=1)  # the mask, one pixel smaller
        total = total + inner
        if inner.min() == inner.max():  # it stays as it is
            total = total + left * inner
            break
    largest = total.amax(dim=(1, 2, 3), keepdim=True)
    return total / largest.clamp(min=1)

"""What is painted over: a picture on whole blocks of 128 pixels, and which part is painted anew.

    picture, mask ─fit, extend→ ─border→ canvas ─compressor, Stages C, B, A→ ─keep→ new picture

Only whole blocks fit through the stages, so a canvas has a border around the picture, which repeats
its edges and is cropped away in the end. A mask is 1 where a picture is painted anew and 0 where it
is kept; outside the mask the result has the given pixels, to the last bit.

Shapes: N batch, H W pixels, multiples of 128; h w semantic cells.
"""

import os
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .checks import check_whole
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
    if mask is not None and mask.size != image.size:
        sizes = [f"{width}×{height}" for width, height in (image.size, mask.size)]
        raise ValueError(
            f"the mask must be of the image's size, {sizes[0]}, got {sizes[1]}; resize it"
        )
    if mask is not None and mask.getextrema()[1] == 1:
        raise ValueError("the mask must be white, 255, where to paint, its largest level is 1")
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
    """Return `mask` (N, 1, H, W) with soft edges: 0 outside as it was, up to 1 `width` pixels within.

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


def picture(source: Any, mode: str) -> "Image":
    """Return a picture as it is meant to be seen, in the mode "RGB" or "L".

    Args:
        source: path of a file, a picture of Pillow's, or an array, uint8 (H, W) or (H, W, 3) or
            bool (H, W).
        mode: Pillow's name.

    Raises:
        OSError: if there is no such file.
        ValueError: if it is no picture that Pillow can read.
    """
    from PIL import Image, UnidentifiedImageError

    if isinstance(source, Image.Image):
        return upright(source, mode)
    if isinstance(source, np.ndarray):
        levels = source * np.uint8(255) if source.dtype == bool else source
        if levels.dtype != np.uint8 or (source.ndim, *source.shape[2:]) not in ((2,), (3, 3)):
            shape = f"{source.dtype} of the shape {source.shape}"
            raise ValueError(
                "an array as picture must be uint8, (H, W) or (H, W, 3), or bool as mask, got "
                f"{shape}"
            )
        return Image.fromarray(levels).convert(mode)
    try:
        with Image.open(os.path.expanduser(source)) as opened:
            return upright(opened, mode)
    except FileNotFoundError:
        raise
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{source}: expected a picture such as PNG or JPEG, could not decode it ({error})"
        ) from error


def upright(image: "Image", mode: str) -> "Image":
    """Return `image` in the mode, turned as its file says, with its 16 bits of grey as 8."""
    from PIL import ImageOps

    turned = ImageOps.exif_transpose(image)
    if turned.mode.startswith("I"):
        turned = turned.convert("I").point(lambda level: level / 257 + 0.5).convert("L")
    return turned.convert(mode)


def fitted(image: "Image", size: tuple[int, int]) -> "Image":
    """Return `image` at `size`, scaled to cover it and cropped from the middle."""
    from PIL import Image, ImageOps

    if image.size == size:
        return image
    return ImageOps.fit(image, size, Image.Resampling.LANCZOS)


def to_pixels(image: "Image") -> Tensor:
    """Return (1, C, H, W) in [0, 1] of a picture with C channels of 8 bits."""
    levels = np.asarray(image, dtype=np.float32) / 255
    if levels.ndim == 2:
        levels = levels[:, :, None]
    return torch.from_numpy(levels).permute(2, 0, 1)[None]


def to_images(pixels: Tensor, size: tuple[int, int] | None = None) -> "list[Image]":
    """Return images of pixels (N, 3, H, W) in [0, 1], cropped from the middle to `size`.

    Args:
        pixels: from `Stages.decode_pixels`.
        size: width and height in pixels; None is all of the picture.

    Raises:
        ValueError: if `size` is larger than the picture.
    """
    from PIL import Image

    rows, columns = pixels.shape[2:]
    width, height = size or (columns, rows)
    if width > columns or height > rows:
        raise ValueError(f"size must be at most {columns}×{rows}, got {width}×{height}")
    cropped = pixels[:, :, middle(rows, height), middle(columns, width)]
    levels = (cropped.float().clamp(0, 1) * 255).round().to(torch.uint8)
    return [Image.fromarray(image.permute(1, 2, 0).cpu().numpy()) for image in levels]


def middle(side: int, kept: int) -> slice:
    """Return the middle `kept` of `side` pixels."""
    start = (side - kept) // 2
    return slice(start, start + kept)

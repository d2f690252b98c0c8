"""Pictures <-> pixels: (N, C, H, W) in [0, 1]."""

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image


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
    if not isinstance(source, (str, os.PathLike, np.ndarray)):
        raise ValueError(
            "a picture must be a path, a picture of Pillow's or a uint8 array, got "
            f"{type(source).__name__}"
        )
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
    """Return `image` in the mode, turned as its file says, with its 16 bits of grey as 8.

    Raises:
        ValueError: if a mask ("L") has transparent parts, which mean "paint" to some and "keep" to others.
    """
    from PIL import ImageOps

    turned = ImageOps.exif_transpose(image)
    if turned.mode.startswith("I"):
        turned = turned.convert("I").point(lambda level: level / 257 + 0.5).convert("L")
        turned.info.pop("transparency", None)  # a level of 16 bits
    if mode == "L" and (np.asarray(turned.convert("RGBA"))[..., 3] < 255).any():
        raise ValueError(
            "a mask must be opaque, got one with transparent parts; flatten it on black"
        )
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

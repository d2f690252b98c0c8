"""Sizes between whole blocks: a latent knows the size of the picture that it is for.

Only whole blocks of 128 pixels fit through the stages. What is between two of them is painted at the
next larger size and cropped from the middle in the end, as in the package. The host hands on what
else is in a LATENT, so the size lies there.
"""

from typing import Any

from torch import Tensor

from ...wuerstchen.pixels import middle
from ...wuerstchen.sizes import cells

SIZE = "wuerstchen_size"  # width and height in pixels


def sized(latent: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """Return `latent` for pictures of `size`, width and height in pixels."""
    return {**latent, SIZE: size}


def handed_on(latent: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Return `other` with the size of `latent` and its places in a batch, as far as it has them."""
    return {**other, **{key: latent[key] for key in (SIZE, "batch_index") if key in latent}}


def cropped(pixels: Tensor, latent: dict[str, Any]) -> Tensor:
    """Return the middle of pixels (N, H, W, 3), at the size that their latent is for.

    All of them, if it has none, or one of other cells: a node may have cropped or scaled it. That a
    square was turned cannot be seen.
    """
    if SIZE not in latent:
        return pixels
    rows, columns = pixels.shape[1:3]
    for width, height in (latent[SIZE], latent[SIZE][::-1]):  # a node may have turned it
        if (cells(width).pixels, cells(height).pixels) == (columns, rows):
            return pixels[:, middle(rows, height), middle(columns, width)]
    return pixels

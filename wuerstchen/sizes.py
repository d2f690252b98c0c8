"""Sizes: pixels of a picture, cells of its latents.

Nothing heavy is imported here.
"""

from typing import NamedTuple

from .checks import check_whole

SMALLEST_SIDE = 128
SMALLEST_TILE = 256
VQ_PIXELS = 4


class Cells(NamedTuple):
    """Cells along one side of a picture."""

    semantic: int
    vq: int

    @property
    def pixels(self) -> int:
        """Pixels of these cells."""
        return VQ_PIXELS * self.vq


def cells(side: int) -> Cells:
    """Return the cells along a side of `side` pixels: 3 semantic and 32 VQ cells per 128 pixels.

    Only such sizes fit through Stage B; a side between two of them is painted at the next larger
    one and cropped from the middle.

    Raises:
        ValueError: if `side` is not a whole number of at least 128.
    """
    check_whole("a side", side, SMALLEST_SIDE)
    blocks = -(-side // 128)
    return Cells(3 * blocks, 32 * blocks)


def vq_cells(semantic_cells: int) -> int:
    """Return the VQ cells along a side of a semantic latent.

    Raises:
        ValueError: if the semantic cells are not a multiple of 3.
    """
    if semantic_cells < 1 or semantic_cells % 3:
        raise ValueError(
            f"rows and columns of a semantic latent must be multiples of 3, got {semantic_cells}"
        )
    return semantic_cells // 3 * 32

"""Large pictures on small devices: a network runs on one piece after the other, without seams.

Stage A sees only so far: a pixel depends on a few VQ cells around its own. Parts that are decoded
with these cells around them, the halo, are the very pixels of the whole.

Stage B sees all of its latent, so alone each piece would become a picture of its own. Here the noise
is predicted in overlapping windows in each denoising step, and the predictions are blended: the
sampler sees one latent. Since a step is linear in the noise, this is MultiDiffusion (Bar-Tal et al.
2023, equations 4 and 5). What is where stands in the semantic latent, which all windows share, so that
nothing is painted twice.

Shapes: N batch, H W cells of the VQ latent (four pixels each), c channels.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from .layers import Share
from .sampling import PLAIN, Denoiser

Constants = TypeVar("Constants")


class Decoder(Protocol):
    """Stage A, as far as it is needed here."""

    config: Any

    def decode(self, latent: Tensor) -> Tensor:
        """Return the pixels (N, 3, 4 H, 4 W) of a VQ latent (N, 4, H, W)."""
        ...


class Part(NamedTuple):
    """A part of one side for Stage A."""

    seen: slice  # cells that are decoded, halo included
    kept: slice  # pixels that are kept of them
    place: slice  # where these are in the picture


def decode_tiled(network: Decoder, latent: Tensor, tile: int) -> Tensor:
    """Return what `network.decode` does, on the CPU, decoded part by part.

    Args:
        network: Stage A.
        latent: VQ latent (N, 4, H, W), on the network's device.
        tile: side of a part in pixels, halo included; the device needs memory for a picture of that
            size.

    Raises:
        ValueError: if the halo would be more than half of a side.
    """
    scale, margin = network.config.downscale, halo(network.config)
    least = 4 * margin * scale
    if tile < least:
        raise ValueError(f"a tile of Stage A must be at least {least} pixels, got {tile}")
    height, width = latent.shape[2:]
    shape = (len(latent), network.config.out_channels, scale * height, scale * width)
    pixels = torch.empty(shape, dtype=latent.dtype, device="cpu")
    vertical, horizontal = (parts(side, tile // scale, margin, scale) for side in (height, width))
    for rows, columns in product(vertical, horizontal):
        decoded = network.decode(latent[:, :, rows.seen, columns.seen])
        pixels[:, :, rows.place, columns.place] = decoded[:, :, rows.kept, columns.kept]
    return pixels


def halo(config: Any) -> int:
    """Return how many cells on each side of its own a pixel depends on, from Stage A's config.

    Each block adds one cell of its level. An upsampling (kernel 4, stride 2) of which r cells beyond a
    border are needed needs r // 2 + 1 of the level below.
    """
    cells = 0
    for _ in range(config.levels - 1):
        cells = (cells + 1) // 2 + 1
    return int(cells + config.bottleneck_blocks)


def parts(side: int, tile: int, margin: int, scale: int) -> list[Part]:
    """Return the parts of a side of `side` cells: equal ones, of at most `tile` cells with the halo.

    At the latent's own border there is no halo: there Stage A pads a part as it pads the whole.
    """
    count = 1 if side <= tile else -(-side // (tile - 2 * margin))
    length = -(-side // count)
    found = []
    for start in range(0, side, length):
        first, end = max(0, start - margin), min(start + length, side)
        seen = slice(first, min(end + margin, side))
        kept = slice(scale * (start - first), scale * (end - first))
        found.append(Part(seen, kept, slice(scale * start, scale * end)))
    return found


class Window(NamedTuple):
    """A part of a latent, in cells."""

    rows: int
    columns: int
    top: int
    left: int

    def of(self, x: Tensor) -> Tensor:
        """Return this part (N, c, rows, columns) of `x` (N, c, H, W), in the memory of `x`."""
        return x[:, :, self.top : self.top + self.rows, self.left : self.left + self.columns]


def tiled(windows: Sequence[Window], denoisers: Sequence[Denoiser]) -> Denoiser:
    """Return a denoiser of a whole latent from one for each of the windows that cover it.

    Its noise is the weighted mean of theirs, float32. A window's weight fades out towards its border.
    """

    def denoise(x: Tensor, t: float) -> Tensor:
        weights = blend_weights(tuple(windows), x.device)
        noise = torch.zeros_like(x, dtype=torch.float32)
        for window, one, weight in zip(windows, denoisers, weights, strict=True):
            window.of(noise).add_(weight * one(window.of(x), t))
        return noise

    return denoise


@lru_cache(maxsize=1)  # asked for in every step
def blend_weights(windows: tuple[Window, ...], device: torch.device) -> list[Tensor]:
    """Return what each window counts for in every cell of its own (rows, columns): 1 over all."""
    rows, columns = (max(window[i] + window[i + 2] for window in windows) for i in (0, 1))
    weights = [bell(window.rows)[:, None] * bell(window.columns) for window in windows]
    total = torch.zeros(1, 1, rows, columns, **PLAIN)
    for window, weight in zip(windows, weights, strict=True):
        window.of(total).add_(weight)
    pairs = zip(windows, weights, strict=True)
    return [(weight / window.of(total)[0, 0]).to(device) for window, weight in pairs]


def bell(length: int) -> Tensor:
    """Return the weights (length,) along a window's side: a raised cosine, just above 0 at its ends."""
    window = torch.hann_window(length + 2, periodic=False, **PLAIN)
    return window[1:-1]


def cut(constants: Constants, size: tuple[int, int], window: Window) -> Constants:
    """Return Stage B's constants for a window, cut out of those for the whole.

    They take no memory: all windows share the text's keys and values, the folded weights and the
    resized semantic latent.

    Args:
        constants: `StageBConstants` for a whole latent.
        size: its rows and columns H, W.
        window: on multiples of Stage B's `granularity`.
    """
    whole: Any = constants
    down, up = (
        [[cut_one(constant, size, window) for constant in level] for level in levels]
        for levels in (whole.down, whole.up)
    )
    part: Constants = whole._replace(down=down, up=up)
    return part


def cut_one(constant: Any, size: tuple[int, int], window: Window) -> Any:
    """Return what a window needs of the constant of one block."""
    if not isinstance(constant, Share):
        return constant
    scale = size[0] // constant.features.shape[1]
    rows, columns, top, left = (cells // scale for cells in window)
    return constant._replace(features=constant.features[:, top : top + rows, left : left + columns])


def cover(size: Sequence[int], tile: int, multiple: int) -> list[Window]:
    """Return windows that cover a latent, row by row; neighbours share a quarter of the tile.

    Args:
        size: rows and columns H, W of the latent.
        tile: side of a window, in cells.
        multiple: what H and W are multiples of, and so a window's sides and place.

    Raises:
        ValueError: if windows would be no longer than what they share.
    """
    vertical, horizontal = (spans(side, tile, tile // 4, multiple) for side in size)
    return [
        Window(rows, columns, top, left) for top, rows in vertical for left, columns in horizontal
    ]


def spans(side: int, tile: int, overlap: int, multiple: int) -> list[tuple[int, int]]:
    """Return first cell and length of as few windows as cover a side and share `overlap` cells.

    All have the length `tile`, rounded down to the multiple, or `side` if that is shorter. They are
    spread evenly; the last ends with the side.

    Raises:
        ValueError: if windows would be no longer than what they share.
    """
    whole, length, shared = side // multiple, tile // multiple, -(-overlap // multiple)
    if length <= shared:
        least = (shared + 1) * multiple
        raise ValueError(f"a tile must be at least {least} cells to share {overlap}, got {tile}")
    more = max(0, -(-(whole - length) // (length - shared)))
    length = min(length, whole)
    starts = [i * (whole - length) // max(1, more) for i in range(more + 1)]
    return [(start * multiple, length * multiple) for start in starts]

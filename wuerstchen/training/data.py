"""Batches of drawn pictures with their captions.

Shapes: N pictures, H W pixels in [0, 1].
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .shapes import COLOURS, Scene, draw, random_scene
from .wording import caption

SIZES = ((256, 256), (384, 256), (256, 384))  # width, height
SIZE_SHARES = (0.6, 0.2, 0.2)


@dataclass(frozen=True)
class Batch:
    """Pictures (N, 3, H, W), what they show, and where things are: a mask (N, 1, H, W) in {0, 1}."""

    pixels: Tensor
    scenes: list[Scene]
    things: Tensor

    def to(self, device: torch.device) -> "Batch":
        """Return the batch with its tensors on `device`."""
        return Batch(self.pixels.to(device), self.scenes, self.things.to(device))


def batch(
    rng: np.random.Generator, n: int, *, crop: int | None = None, held_out: bool = False
) -> Batch:
    """Return `n` pictures of one random size, or windows of `crop` pixels around their things."""
    size = SIZES[rng.choice(len(SIZES), p=SIZE_SHARES)]
    scenes = [random_scene(rng, held_out=held_out) for _ in range(n)]
    return batch_of(rng, scenes, size, crop=crop)


def batch_of(
    rng: np.random.Generator, scenes: list[Scene], size: tuple[int, int], *, crop: int | None = None
) -> Batch:
    """Return pictures of `scenes`, of `size` (width, height) or cropped around their things."""
    drawn = [draw(scene, *size, rng) for scene in scenes]
    if crop is not None:
        drawn = [
            window(picture, scene, crop, rng) for picture, scene in zip(drawn, scenes, strict=True)
        ]
    pixels = torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).float() / 255
    return Batch(pixels, scenes, thing_mask(pixels, scenes))


def captions(scenes: list[Scene], rng: np.random.Generator, *, dropped: float = 0.0) -> list[str]:
    """Return a caption per scene, each empty with probability `dropped` (for guidance).

    Some get a word that means nothing, so that unknown words are learnt to be passed over.
    """
    return [
        "" if rng.random() < dropped else with_nonsense(caption(scene, rng), rng)
        for scene in scenes
    ]


def with_nonsense(text: str, rng: np.random.Generator) -> str:
    """Return `text`, one time in ten with a made-up word between two others."""
    words = text.split(" ")
    if rng.random() < 0.1:
        letters = rng.choice(list("abcdefghijklmnopqrstuvwxyz"), size=rng.integers(2, 9))
        words.insert(int(rng.integers(len(words) + 1)), "".join(letters))
    return " ".join(words)


def vaguer(text: str, rng: np.random.Generator) -> str:
    """Return `text`, one time in three with some of its colours left out.

    What goes with every colour is learnt apart from them, and so for combinations never shown.
    """
    if rng.random() < 2 / 3:
        return text
    words = text.split(" ")
    kept = [word for word in words if word.strip(",.").lower() not in COLOURS or rng.random() < 0.5]
    return " ".join(kept)


def window(picture: np.ndarray, scene: Scene, side: int, rng: np.random.Generator) -> np.ndarray:
    """Return a square part of `picture`, around a point where a thing is, moved at random."""
    different = np.abs(picture.astype(np.int16) - COLOURS[scene.background]).max(axis=2) > 40
    rows, columns = np.nonzero(different)
    chosen = int(rng.integers(len(rows)))
    corner = []
    for centre, length in zip((rows[chosen], columns[chosen]), picture.shape[:2], strict=True):
        start = int(centre) - side // 2 + int(rng.integers(-side // 4, side // 4 + 1))
        corner.append(min(max(start, 0), length - side))
    return picture[corner[0] : corner[0] + side, corner[1] : corner[1] + side]


def thing_mask(pixels: Tensor, scenes: list[Scene]) -> Tensor:
    """Return 1 where a picture differs from its background, (N, 1, H, W)."""
    grounds = torch.tensor([COLOURS[scene.background] for scene in scenes]) / 255
    return ((pixels - grounds[:, :, None, None]).abs().amax(1, keepdim=True) > 0.15).float()


def edge_weights(things: Tensor, cell: int) -> Tensor:
    """Return weights (N, 1, H / cell, W / cell): 1 on plain ground, more where outlines are."""
    inside = F.avg_pool2d(things, cell)
    outline = F.max_pool2d(inside, 3, 1, 1) + F.max_pool2d(-inside, 3, 1, 1)
    return 1 + inside + 4 * outline

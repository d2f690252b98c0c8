"""How well a model obeys: held-out captions painted with default settings and read by the judge."""

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np

from ..checks import check_whole
from ..pipeline import Wuerstchen
from .judge import Score, agree, judge
from .shapes import Scene, random_scene
from .wording import caption


class Reading(NamedTuple):
    """One picture, what it should show, and the score of all pictures so far."""

    prompt: str
    scene: Scene
    pixels: np.ndarray
    agreement: dict[str, bool]
    score: Score


def measure(
    model: Wuerstchen, *, prompts: int = 200, size: tuple[int, int] = (256, 256), seed: int = 0
) -> Iterator[Reading]:
    """Yield a reading per prompt; the last one has the final score.

    Every prompt shows a (colour, shape, background) combination that training never did, in one of
    the many wordings of `wording.caption`; picture i has seed `seed` + i.

    Args:
        model: the model to measure.
        prompts: how many.
        size: width and height in pixels.
        seed: of the captions, and of the first picture.

    Raises:
        ValueError: if `prompts` is below 1.
    """
    check_whole("prompts", prompts, 1)
    score = Score()
    for i, (scene, prompt) in enumerate(islice(held_out(seed), prompts)):
        (image,) = model.paint(prompt, width=size[0], height=size[1], seed=seed + i)
        pixels = np.asarray(image)
        agreement = agree(scene, judge(pixels))
        score = score.plus(agreement)
        yield Reading(prompt, scene, pixels, agreement, score)


def held_out(seed: int) -> Iterator[tuple[Scene, str]]:
    """Yield scenes that training never showed, each with a caption, without end."""
    rng = np.random.default_rng(seed)
    while True:
        scene = random_scene(rng, held_out=True)
        yield scene, caption(scene, rng)

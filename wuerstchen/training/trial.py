"""One set of prompts for all settings that are compared: same words, same noise, read by the judge.

z are semantic latents of unit variance, (N, 16, h, w).
"""

from collections.abc import Callable, Sequence
from itertools import islice

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..pipeline import Wuerstchen
from ..sampling import from_published, generators, to_published
from ..settings import Settings
from .judge import agree, judge
from .look import to_bytes
from .measure import held_out

BATCH = 20
FAR = 10**6  # between the seeds of runs that share no noise


class Trial:
    """Held-out prompts, those of `measure`, with their features, scenes and seeds."""

    def __init__(self, model: Wuerstchen, prompts: int, seed: int) -> None:
        self.model, self.seed = model, seed
        self.scenes, captions = zip(*islice(held_out(seed), prompts), strict=True)
        self.text, self.negative = model.encode_text(captions), model.encode_text([""])

    def compose(self, s: Settings, count: int, run: int = 0) -> Tensor:
        """Return z of the first `count` prompts; another `run` has other noise."""

        def some(part: slice) -> Tensor:
            text = self.text.prior[part]
            semantic = self.model.sample_semantic(
                text,
                self.rngs(part, run),
                negative=self.negative.prior.expand(len(text), -1, -1),
                steps=s.steps,
                sampler=s.sampler,
                guidance=s.guidance,
                interval=(s.guidance_start, s.guidance_end),
            )
            return from_published(semantic)

        return in_batches(some, count)

    def develop(self, z: Tensor, s: Settings, run: int = 0) -> Tensor:
        """Return VQ latents (N, 4, H, W) of z, whatever Stage C drew from its generators."""

        def some(part: slice) -> Tensor:
            return self.model.sample_vq(
                to_published(z[part]),
                self.text.decoder[part],
                self.rngs(part, run),
                steps=s.decoder_steps,
                sampler=s.decoder_sampler,
            )

        return in_batches(some, len(z))

    def rngs(self, part: slice, run: int) -> list[torch.Generator]:
        """Return the generators of some prompts."""
        return generators([self.seed + run * FAR + i for i in range(part.start, part.stop)])

    def judged(self, pixels: Tensor) -> list[dict[str, bool]]:
        """Return which traits of each picture are right."""
        pairs = zip(self.scenes, to_bytes(pixels).numpy(), strict=True)
        return [agree(scene, judge(picture)) for scene, picture in pairs]


def paired_loss(usual: Sequence[int], right: Sequence[int]) -> tuple[float, float]:
    """Return the points that `right` is less often 1 than `usual`, and their standard error.

    Both hold 0 or 1 for the same pictures.
    """
    lost = 100 * (np.array(usual, int) - np.array(right, int))
    return float(lost.mean()), float(lost.std(ddof=1) / len(lost) ** 0.5)


def in_batches(some: Callable[[slice], Tensor], count: int) -> Tensor:
    """Return what `some` returns for slices of `count` rows, together."""
    starts = tqdm(range(0, count, BATCH), unit="batch", leave=False)
    return torch.cat([some(slice(start, min(start + BATCH, count))) for start in starts])

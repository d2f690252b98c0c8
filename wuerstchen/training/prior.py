"""Training Stage C: caption -> semantic latent.

The compressor is given, so the latents of a stock of pictures are made once; captions are worded
afresh each time. The text tower goes on learning with Stage C, and keeps being asked for the scene.

Guidance multiplies by its weight whatever sets the prediction without a caption apart from the one
with it, errors too. So the former learns from the latter: its best guess is the mean of theirs over
all captions, and they are far less noisy to learn from than the noise itself.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..compressor import prepare_pixels
from ..sampling import (
    add_noise,
    alpha_bar,
    ddpm,
    denoiser,
    draw_noise,
    generators,
    guided,
    last,
    published_times,
)
from ..stage_c import StageC
from .data import SIZE_SHARES, SIZES, batch_of, captions, vaguer
from .decoder import DecoderTask
from .judge import Score, agree, judge
from .kept import checksum, kept_tensor
from .look import save_rows, to_bytes
from .mini import STAGE_C, initialise
from .noising import early_times, half_precision, importance
from .shapes import Scene, random_scene
from .text import Tower

BATCH, UNTOLD = 48, 16  # pictures, and how many of them are also seen without their caption
STOCK, SEED = 48_000, 7  # the seed is the stock's
NOISE_FLOOR, GUIDANCE = 0.005, 4.0
LATE, LATE_UNTOLD = (5.0,), (5.0, 20.0)  # how much more an error counts at late times, at most


# Latents (n, 16, h, w) and what they show, for each picture size.
Stock = list[tuple[Tensor, list[Scene]]]


class PriorBatch(NamedTuple):
    """Semantic latents, what they show, a caption for each, and which captions tell all of it."""

    latents: Tensor
    scenes: list[Scene]
    prompts: list[str]
    told: list[int]


class PriorTask:
    """Stage C and its text tower."""

    name = "prior"

    def __init__(self, decoder: DecoderTask, tower: Tower, stock: Stock) -> None:
        self.decoder, self.tower = decoder, tower
        self.stage_c = initialise(StageC(STAGE_C))
        self.device = decoder.device
        self.ground: Sequence[nn.Module] = (decoder.compressor,)
        self.networks = nn.ModuleDict({"stage_c": self.stage_c, "tower": tower}).to(self.device)
        self.draw = partial(drawn_from, stock)
        decoder.networks.eval()

    def losses(self, drawn: PriorBatch, progress: float) -> dict[str, Tensor]:
        z, scenes, prompts, told = drawn
        z, t = z.to(self.device), early_times(len(z)).to(self.device)
        fresh = torch.randn_like(z)
        noisy, untold = add_noise(z, fresh, t), slice(UNTOLD)
        with half_precision(self.device):
            features, lengths = self.tower.read([*prompts, ""])
            features, nothing = features[:-1], features[-1:]
            predicted = self.stage_c(noisy, t, features)
            unguided = self.stage_c(noisy[untold], t[untold], nothing.expand_as(features[untold]))
        asked = self.tower.question_loss(
            features.float()[told], lengths[told], [scenes[i] for i in told]
        )
        return {
            "latent": missed(predicted - fresh, t, LATE),
            "untold": missed(unguided - predicted[untold].detach(), t[untold], LATE_UNTOLD)
            * (len(unguided) / len(predicted)),
            "text": 0.05 * asked,
        }

    @torch.no_grad()
    def look(self, folder: Path, step: int) -> dict[str, float]:
        """Paint held-out captions through all stages and let the judge read the pictures."""
        rng = np.random.default_rng(1)
        score = Score()
        for i in range(2):
            scenes = [random_scene(rng, held_out=True) for _ in range(30)]
            painted = self.paint(captions(scenes, rng))
            if i == 0:
                save_rows(torch.split(painted, 10), folder / f"prior-{step:06d}.png")
            for scene, picture in zip(scenes, to_bytes(painted).numpy(), strict=True):
                score = score.plus(agree(scene, judge(picture)))
        return score.rates()

    def paint(self, prompts: list[str]) -> Tensor:
        """Return 256×256 pixels in [0, 1] painted from `prompts` with the default settings."""
        rngs = generators(range(len(prompts)))
        constants = self.stage_c.prepare(self.tower.read([*prompts, *[""] * len(prompts)])[0])
        denoise = guided(denoiser(self.stage_c.step, constants), GUIDANCE)
        noise = draw_noise(rngs, (16, 6, 6), self.device)
        z = last(ddpm(denoise, noise, published_times(), rngs))
        return self.decoder.paint(z, prompts)


def missed(off: Tensor, t: Tensor, late: tuple[float, ...]) -> Tensor:
    """Return the weighted mean square of what the noise at times t (n,) was missed by.

    With each number in `late` it counts more as the noise fades, up to that many times.
    """
    alpha = alpha_bar(t).view(-1, 1, 1, 1)
    weights = importance(t, NOISE_FLOOR)
    for most in late:
        weights = weights * (alpha / (1 - alpha)).clamp(1, most)
    return (weights * off.square()).mean()


def drawn_from(stock: Stock, rng: np.random.Generator, progress: float) -> PriorBatch:
    """Return latents of one size with captions, some of which leave something out."""
    latents, known = stock[rng.choice(len(SIZES), p=SIZE_SHARES)]
    chosen = rng.integers(len(latents), size=BATCH)
    scenes = [known[i] for i in chosen]
    full = captions(scenes, rng)
    prompts = [vaguer(text, rng) for text in full]
    told = [i for i, text in enumerate(full) if text == prompts[i]]
    return PriorBatch(latents[torch.from_numpy(chosen)], scenes, prompts, told)


def kept_stock(decoder: DecoderTask, folder: Path) -> Stock:
    """Return STOCK latents and scenes in all, their latents made now unless they are in `folder`.

    A file's name tells which compressor made it.
    """
    maker, stock = checksum(decoder.compressor)[:16], []
    for i, (size, share) in enumerate(zip(SIZES, SIZE_SHARES, strict=True)):
        rng = np.random.default_rng((SEED, i))
        scenes = [random_scene(rng) for _ in range(int(STOCK * share))]
        file = folder / f"stock-{size[0]}x{size[1]}-{len(scenes)}-{maker}.npy"
        stock.append((kept_tensor(file, partial(latents, decoder, scenes, size, rng)), scenes))
    return stock


@torch.no_grad()
def latents(
    decoder: DecoderTask, scenes: list[Scene], size: tuple[int, int], rng: np.random.Generator
) -> Tensor:
    """Return the semantic latents (n, 16, h, w) of pictures of `scenes`, on the CPU."""
    about, made = f"latents of {size[0]}×{size[1]}", []
    for start in tqdm(range(0, len(scenes), 40), desc=about, unit="batch"):
        pixels = batch_of(rng, scenes[start : start + 40], size).pixels.to(decoder.device)
        made.append(decoder.compressor(prepare_pixels(pixels)).cpu())
    return torch.cat(made)

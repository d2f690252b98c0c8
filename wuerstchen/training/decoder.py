"""Training the semantic compressor and Stage B, together and then Stage B alone.

Stage B learns to paint a picture's VQ latent from the compressor's latent and the caption, so the
compressor learns to keep what Stage B needs. First on windows around things, which is where all
there is to learn happens, then on whole pictures. A linear reading of shape and colours from each
semantic cell keeps the latent easy to foresee for Stage C.

In training the semantic latent z has unit variance; `export.py` folds the published units
(raw = 42 z - 1) into the weights.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..compressor import Compressor, prepare_pixels
from ..sampling import (
    add_noise,
    ddpm,
    denoiser,
    draw_noise,
    generators,
    last,
    uniform_times,
)
from ..sizes import vq_cells
from ..stage_a import StageA
from ..stage_b import StageB
from .data import Batch, batch, captions, edge_weights
from .judge import Score, agree, judge
from .look import save_rows, to_bytes
from .mini import COMPRESSOR, STAGE_B, initialise
from .noising import early_times, half_precision, importance
from .shapes import COLOURS, SHAPES
from .text import Tower

WINDOW, WINDOWS, WHOLES = 128, 32, 12
WHOLE_FROM, FROZEN_FROM = 0.2, 0.85  # shares of the run: whole pictures, then fixed batch norms
NOISE_FLOOR = 0.003  # of the loss weight: errors in the picture count, but less in near-pure noise
LATENT_NOISE, DROPPED = 0.2, 0.15


class DecoderBatch(NamedTuple):
    """Pictures and a caption for each."""

    pictures: Batch
    prompts: list[str]


class DecoderTask:
    """Compressor, Stage B and its text tower; Stage A is given and stays as it is."""

    name = "decoder"

    def __init__(self, stage_a: StageA, tower: Tower, device: torch.device) -> None:
        self.device = device
        self.stage_a = stage_a.eval().requires_grad_(False)
        self.ground: Sequence[nn.Module] = (self.stage_a,)
        self.tower = tower
        self.stage_b = initialise(StageB(STAGE_B))
        self.compressor = compressor()
        self.reading = nn.ModuleDict(
            {
                "shape": nn.Conv2d(16, len(SHAPES), 1),
                "colour": nn.Conv2d(16, 8, 1),
                "background": nn.Conv2d(16, 8, 1),
            }
        )
        self.networks = nn.ModuleDict(
            {
                "compressor": self.compressor,
                "stage_b": self.stage_b,
                "tower": tower,
                "reading": self.reading,
            }
        ).to(device)

    @staticmethod
    def draw(rng: np.random.Generator, progress: float) -> DecoderBatch:
        whole = progress >= WHOLE_FROM
        pictures = batch(rng, WHOLES) if whole else batch(rng, WINDOWS, crop=WINDOW)
        return DecoderBatch(pictures, captions(pictures.scenes, rng, dropped=DROPPED))

    def losses(self, drawn: DecoderBatch, progress: float) -> dict[str, Tensor]:
        shown, prompts = drawn.pictures.to(self.device), drawn.prompts
        self.compressor.train(progress < FROZEN_FROM)
        z = self.compressor(prepare_pixels(shown.pixels))
        reading = self.reading_loss(z, shown)
        return {"paint": self.paint_loss(z, shown, prompts), "reading": 0.05 * reading}

    def paint_loss(self, z: Tensor, shown: Batch, prompts: list[str]) -> Tensor:
        """Return the weighted squared error of the picture's VQ latent at random times."""
        z = z + LATENT_NOISE * torch.rand(len(z), 1, 1, 1, device=z.device) * torch.randn_like(z)
        clean = self.stage_a.encode(shown.pixels)
        t = early_times(len(z)).to(self.device)
        fresh = torch.randn_like(clean)
        noisy = add_noise(clean, fresh, t)
        with half_precision(self.device):
            text, _ = self.tower.read(prompts)
            predicted = self.stage_b(noisy, t, text, z)
        edges = edge_weights(shown.things, self.stage_a.config.downscale)
        weights = edges * importance(t, NOISE_FLOOR)
        loss: Tensor = (weights * (predicted - fresh).square()).mean()
        return loss

    def reading_loss(self, z: Tensor, shown: Batch) -> Tensor:
        """Return how badly shape and colours are read from the cells that show a single thing."""
        single = [i for i, scene in enumerate(shown.scenes) if len(scene.things) == 1]
        cover = F.adaptive_avg_pool2d(shown.things[single], (z.shape[2], z.shape[3]))[:, 0]
        scenes = [shown.scenes[i] for i in single]
        truth = {
            "shape": [SHAPES.index(scene.things[0].shape) for scene in scenes],
            "colour": [list(COLOURS).index(scene.things[0].colour) for scene in scenes],
            "background": [list(COLOURS).index(scene.background) for scene in scenes],
        }
        total = torch.zeros((), device=z.device)
        for name, head in self.reading.items():
            read = head(z[single])
            wanted = torch.tensor(truth[name], device=z.device)[:, None, None].expand(
                read.shape[0], *read.shape[2:]
            )
            weight = 1 - cover if name == "background" else cover
            total = (
                total
                + (weight * F.cross_entropy(read, wanted, reduction="none")).sum() / weight.sum()
            )
        return total

    @torch.no_grad()
    def look(self, folder: Path, step: int, name: str = name) -> dict[str, float]:
        """Paint held-out pictures from their own semantic latents and let the judge read them."""
        rng = np.random.default_rng(1)
        score, squared = Score(), []
        for i in range(3):
            shown = batch(rng, 20, held_out=True).to(self.device)
            z = self.compressor(prepare_pixels(shown.pixels))
            painted = self.paint(z, captions(shown.scenes, rng))
            if i == 0:
                save_rows(
                    [shown.pixels[:10], painted[:10], shown.pixels[10:], painted[10:]],
                    folder / f"{name}-{step:06d}.png",
                )
            for scene, picture in zip(shown.scenes, to_bytes(painted).numpy(), strict=True):
                score = score.plus(agree(scene, judge(picture)))
            squared.append((painted - shown.pixels).square().mean())
        return score.rates() | {"psnr": -10 * float(torch.stack(squared).mean().log10())}

    def paint(self, z: Tensor, prompts: list[str]) -> Tensor:
        """Return pixels in [0, 1] painted in 12 steps from semantic latents (N, 16, h, w)."""
        rngs = generators(range(len(z)))
        size = (vq_cells(z.shape[2]), vq_cells(z.shape[3]))
        constants = self.stage_b.prepare(self.tower.read(prompts)[0], z, size)
        noise = draw_noise(rngs, (4, *size), z.device)
        denoise = denoiser(self.stage_b.step, constants)
        return self.stage_a.decode(last(ddpm(denoise, noise, uniform_times(12), rngs))).clamp(0, 1)


class StageBTask:
    """Stage B and its text tower go on learning; the compressor is finished, as Stage C needs it."""

    name = "stage_b"

    def __init__(self, decoder: DecoderTask) -> None:
        self.decoder = decoder
        self.networks = nn.ModuleDict({"stage_b": decoder.stage_b, "tower": decoder.tower})
        self.ground: Sequence[nn.Module] = (decoder.compressor.eval().requires_grad_(False),)

    @staticmethod
    def draw(rng: np.random.Generator, progress: float) -> DecoderBatch:
        return DecoderTask.draw(rng, progress=1.0)

    def losses(self, drawn: DecoderBatch, progress: float) -> dict[str, Tensor]:
        shown = drawn.pictures.to(self.decoder.device)
        with torch.no_grad():
            z = self.decoder.compressor(prepare_pixels(shown.pixels))
        return {"paint": self.decoder.paint_loss(z, shown, drawn.prompts)}

    def look(self, folder: Path, step: int) -> dict[str, float]:
        return self.decoder.look(folder, step, self.name)


def compressor() -> Compressor:
    """Return an untrained compressor whose latent has unit variance."""
    network = Compressor(COMPRESSOR)
    network.mapper[1].weight.requires_grad_(False)
    network.mapper[1].bias.requires_grad_(False)
    return network

"""Training Stage A: pixels -> VQ latent -> pixels.

The latent is normed to unit variance in Stage B's units by a batch norm whose scale is fixed at
Stage A's `scale_factor`. Half of the pictures pass through the codebook (van den Oord et al. 2017,
straight-through), so that the latent stays close to it and can be used either way.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..stage_a import StageA
from .data import batch
from .look import save_rows
from .mini import STAGE_A

BATCH, CROP = 24, 64


class StageATask:
    """Reconstruction of small windows."""

    name = "stage_a"
    ground: Sequence[nn.Module] = ()

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stage_a = StageA(STAGE_A).to(device)
        head: Any = self.stage_a.down_blocks[-1]
        norm = head[1]
        nn.init.constant_(norm.weight, STAGE_A.scale_factor).requires_grad_(False)
        norm.bias.requires_grad_(False)
        nn.init.normal_(self.stage_a.vquantizer.embedding.weight, std=STAGE_A.scale_factor)
        self.networks = nn.ModuleDict({"stage_a": self.stage_a})

    @staticmethod
    def draw(rng: np.random.Generator, progress: float) -> Tensor:
        return batch(rng, BATCH, crop=CROP).pixels

    def losses(self, pixels: Tensor, progress: float) -> dict[str, Tensor]:
        pixels = pixels.to(self.device)
        latent = self.stage_a.encode(pixels)
        entries, _ = self.stage_a.quantize(latent.detach())
        half = BATCH // 2
        straight = latent[:half] + (entries[:half] - latent[:half]).detach()
        error = self.stage_a.decode(torch.cat([straight, latent[half:]])) - pixels
        return {
            "squared": 10 * error.square().mean(),
            "absolute": error.abs().mean(),
            "codebook": 0.1 * F.mse_loss(entries, latent.detach()),
            "commitment": 0.02 * F.mse_loss(latent, entries.detach()),
        }

    @torch.no_grad()
    def look(self, folder: Path, step: int) -> dict[str, float]:
        pixels = batch(np.random.default_rng(1), 8).pixels.to(self.device)
        latent = self.stage_a.encode(pixels)
        decoded = [
            self.stage_a.decode(z).clamp(0, 1) for z in (latent, self.stage_a.quantize(latent)[0])
        ]
        save_rows([pixels, *decoded], folder / f"stage_a-{step:06d}.png")
        plain, quantised = (
            -10 * float((picture - pixels).square().mean().log10()) for picture in decoded
        )
        return {"psnr": plain, "psnr_quantised": quantised, "latent_std": float(latent.std())}

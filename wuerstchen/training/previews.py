"""Fitting previews: what colour a cell of an unfinished latent has, read from its channels.

A host that shows a picture while it is sampled multiplies the channels of each cell with a matrix
and adds a bias. Both are the least squares solution over pictures that the model paints itself.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from ..pipeline import Wuerstchen
from ..sampling import from_published, generators

BATCH = 10


def fit_previews(model: Wuerstchen, prompts: list[str], seed: int = 0) -> dict[str, Any]:
    """Return, for Stage C and Stage B, factors (C, 3), bias (3) and the share of colour explained.

    Latents are taken as the sampler has them, z of unit variance for Stage C; colours come out in
    [-1, 1]. The keys are the stage and the width of its text, "Stage C 1280", so that the right
    ones are found for a network.

    Args:
        model: whose latents are shown.
        prompts: what it paints for the fit; many colours, in all places.
        seed: of the first picture.
    """
    semantics, vqs, pixels = [], [], []
    for start in tqdm(range(0, len(prompts), BATCH), desc="pictures to fit", unit="batch"):
        text_c, text_b = model.encode_text(prompts[start : start + BATCH])
        rngs = generators([seed + start + i for i in range(len(text_c))])
        semantics.append(model.sample_semantic(text_c, rngs))
        vqs.append(model.sample_vq(semantics[-1], text_b, rngs))
        pixels.append(model.decode_pixels(vqs[-1]))
    colours = torch.cat(pixels) * 2 - 1
    z = from_published(torch.cat(semantics))
    return {
        f"Stage C {model.stage_c.config.c_cond}": read_colours(z, colours),
        f"Stage B {model.stage_b.config.clip_embd}": read_colours(torch.cat(vqs), colours),
    }


def read_colours(latents: Tensor, colours: Tensor) -> dict[str, Any]:
    """Return the best linear reading of `colours` (N, 3, H, W) from `latents` (N, C, h, w)."""
    seen = F.adaptive_avg_pool2d(colours, (latents.shape[2], latents.shape[3]))
    cells, wanted = (x.movedim(1, -1).flatten(0, 2).double() for x in (latents, seen))
    extended = torch.cat([cells, torch.ones_like(cells[:, :1])], dim=1)
    read = torch.linalg.lstsq(extended, wanted).solution
    missed = (extended @ read - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum()
    numbers = [[round(float(x), 4) for x in row] for row in read]
    return {
        "factors": numbers[:-1],
        "bias": numbers[-1],
        "explained": round(1 - float(missed), 3),
    }

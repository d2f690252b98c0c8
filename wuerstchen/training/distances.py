"""How far latents lie from reference latents.

`path_distance` compares each latent with its own reference, which came from the same noise; it means
nothing for a sampler that draws noise. `frechet` compares two sets of latents as distributions.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def path_distance(x: Tensor, reference: Tensor) -> float:
    """Return the RMS of x - reference over the RMS of the reference, of the same shape."""
    return float((x - reference).square().mean().sqrt() / reference.square().mean().sqrt())


def grey_distance(pixels: Tensor, reference: Tensor) -> float:
    """Return the RMS of the difference of pixels in [0, 1], in grey levels of 255."""
    return 255 * float((pixels - reference).square().mean().sqrt())


def frechet(x: Tensor, reference: Tensor) -> float:
    """Return Fréchet's distance of the channels of two (N, C, h, w) over the reference's deviation.

    With the cells of all images as samples, it is d² = |μ - μ'|² + tr(Σ + Σ' - 2 (Σ Σ')^½): the
    Wasserstein distance of two normal distributions (Dowson and Landau 1982). The square of the
    deviation is tr Σ'.
    """
    (mean, covariance), (mean_r, covariance_r) = moments(x), moments(reference)
    root = torch.linalg.eigvals(covariance @ covariance_r).real.clamp(min=0).sqrt().sum()
    squared = (mean - mean_r).square().sum() + (covariance + covariance_r).trace() - 2 * root
    return float((squared.clamp(min=0) / covariance_r.trace()).sqrt())


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean (C) and covariance (C, C) of the cells of `x` (N, C, h, w), float64."""
    cells = x.movedim(1, -1).flatten(0, 2).double()
    return cells.mean(0), cells.T.cov()


def blocks(vq: Tensor) -> Tensor:
    """Return VQ latents (N, 4, H, W) with the 2×2 cells of a block as channels (N, 16, H/2, W/2)."""
    return F.pixel_unshuffle(vq, 2)

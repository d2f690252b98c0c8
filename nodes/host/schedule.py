"""Würstchen's noise and its latents in the host's terms."""

from typing import Any

import comfy.latent_formats
import comfy.model_sampling
import torch
from torch import Tensor

from ...wuerstchen.sampling import from_published, sigma_at, time_at, to_published

BEFORE_ALL = 999999999.9  # the host's sigma for "from the very start"
LISTED = 10000


class Schedule(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.EPS):
    """The cosine schedule. It is continuous; some of the host's schedulers want a list of sigmas."""

    def __init__(self) -> None:
        super().__init__()
        self.num_timesteps = LISTED
        self.set_sigmas(sigma_at(torch.arange(1, LISTED + 1) / LISTED))

    def timestep(self, sigma: Tensor) -> Tensor:
        """Return the times in [0, 1], 1 = noise, as a network takes them."""
        return time_at(sigma)

    def sigma(self, timestep: Any) -> Tensor:
        """Return the sigmas of times."""
        return sigma_at(torch.as_tensor(timestep, dtype=torch.float32))

    def percent_to_sigma(self, percent: float) -> float:
        """Return the sigma after a share of the run in [0, 1]."""
        if percent <= 0:
            return BEFORE_ALL
        return float(self.sigma(1.0 - percent)) if percent < 1 else 0.0


def check_schedule(sampling: Any) -> None:
    """Refuse the schedule of another kind of model, under which a network would see only noise.

    Raises:
        ValueError: with what to remove.
    """
    if not isinstance(sampling, Schedule | comfy.model_sampling.StableCascadeSampling):
        raise ValueError(
            "model must have Würstchen's schedule or ModelSamplingStableCascade's, got that of "
            "another kind of model; remove the ModelSampling node before the sampler"
        )


class SemanticFormat(comfy.latent_formats.LatentFormat):
    """Stage C's latents: z in the sampler, 42 z - 1 on the wire."""

    latent_channels = 16
    spacial_downscale_ratio = 42

    def process_in(self, latent: Tensor) -> Tensor:
        """Return z."""
        return from_published(latent)

    def process_out(self, latent: Tensor) -> Tensor:
        """Return 42 z - 1."""
        return to_published(latent)


class VQFormat(comfy.latent_formats.LatentFormat):
    """Stage B's latents, the same in the sampler and on the wire."""

    latent_channels = 4
    spacial_downscale_ratio = 4

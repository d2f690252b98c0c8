"""Sampling by the host's guider: with the package's sampler, or with one of the host's."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import comfy.model_management as management
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from torch import Tensor

from ...wuerstchen.checks import check_choice
from ...wuerstchen.sampling import (
    chosen_times,
    ddpm,
    draw_noise,
    generators,
    sigma_at,
    time_at,
)
from ...wuerstchen.sizes import cells, vq_cells
from .checks import check_channels, check_model, check_stage_c_latent
from .diffusion import SEMANTIC, HostedB, HostedC
from .sizes import handed_on, sized
from .tiles import in_windows

Latent = dict[str, Any]
CPU = torch.device("cpu")
LARGEST_SEED = 2**64 - 1
SPACINGS = ["published", "uniform"]


def empty_semantic(width: int, height: int, batch: int) -> Latent:
    """Return an empty latent for Stage C, for pictures of these sides in pixels."""
    shape = (batch, 16, cells(height).semantic, cells(width).semantic)
    empty = torch.zeros(shape, device=management.intermediate_device())
    return sized({"samples": empty}, (width, height))


def chosen_sigmas(spacing: str, steps: int, start: float = 1.0, end: float = 0.0) -> Tensor:
    """Return SIGMAS from time `start` to `end`: "published", or `steps` even steps ("uniform").

    Raises:
        ValueError: if the word is another, which an older host lets pass, or a number out of range.
    """
    check_choice("times", spacing, SPACINGS)
    return sigma_at(chosen_times(steps if spacing == "uniform" else None, start, end))


def sample(
    model: Any,
    positive: Any,
    negative: Any,
    latent: Latent,
    seed: int,
    guidance: float,
    sigmas: Tensor,
    sampler: Any = None,
) -> Latent:
    """Return the latent after a run of Stage C; `sampler` None is the package's DDPM.

    Item i of a batch is the one that it gets alone with seed + i.

    Raises:
        ValueError: if something is connected that belongs elsewhere.
    """
    check_model(model, HostedC, "Würstchen Load Prior")
    channels = model.model.diffusion_model.config.c_in
    check_channels(latent["samples"], channels, "connect Würstchen Empty Latent")
    for side in latent["samples"].shape[2:]:
        vq_cells(side)  # what Stage B could not decode is refused before the run
    return run(model, positive, negative, latent, seed, guidance, sigmas, sampler)


def sample_vq(
    model: Any,
    semantic: Latent,
    positive: Any,
    negative: Any,
    seed: int,
    steps: int,
    guidance: float,
    tile: int = 0,
) -> Latent:
    """Return the Stage B latent for a Stage C latent, in windows of `tile` pixels (0 = at once).

    Raises:
        ValueError: if something is connected that belongs elsewhere, or guidance lacks `negative`.
    """
    check_model(model, HostedB, "Würstchen Load Decoder")
    if guidance > 1 and negative is None:
        raise ValueError(f"guidance of {guidance} leads away from negative; connect it, or give 0")
    positive = with_semantic(positive, semantic)
    given = semantic["samples"]
    shape = (len(given), model.model.diffusion_model.config.c_in, *map(vq_cells, given.shape[2:]))
    empty = handed_on(semantic, {"samples": torch.zeros(shape, device=given.device)})
    sigmas = chosen_sigmas("uniform", steps)
    model = in_windows(model, tile) if tile else model
    return run(model, positive, negative, empty, seed, guidance, sigmas)


def with_semantic(conditioning: Any, semantic: Latent) -> Any:
    """Return a CONDITIONING for Stage B that holds a Stage C latent.

    Raises:
        ValueError: if the latent is not Stage C's, or empty.
    """
    given = semantic["samples"]
    check_stage_c_latent(given)
    if not given.any():
        raise ValueError("the Stage C latent is empty; put Würstchen Stage C Sampler after it")
    return [[text, {**entries, SEMANTIC: given}] for text, entries in conditioning]


def run(
    model: Any,
    positive: Any,
    negative: Any,
    latent: Latent,
    seed: int,
    guidance: float,
    sigmas: Tensor,
    sampler: Any = None,
) -> Latent:
    """Return the latent after a run; guidance up to 1 is none, as in the package.

    Raises:
        ValueError: if the sigmas rise, or what is sampled is beyond the precision.
    """
    samples = latent["samples"]
    if sampler is None and bool((sigmas.diff() > 0).any()):
        raise ValueError(
            "sigmas must fall, got some that rise; connect a sampler that can go backwards, such as "
            "KSamplerSelect with euler"
        )
    rngs = generators(
        [(seed + i) % (LARGEST_SEED + 1) for i in latent.get("batch_index", range(len(samples)))]
    )
    noise = draw_noise(rngs, samples.shape[1:], CPU)
    guider = comfy.samplers.CFGGuider(model)
    unwanted = {} if negative is None else {"negative": negative}
    guider.inner_set_conds({"positive": positive, **unwanted})
    guider.set_cfg(max(guidance, 1.0))
    done = guider.sample(
        noise,
        samples,
        sampler or comfy.samplers.KSAMPLER(partial(sample_ddpm, rngs=rngs)),
        sigmas,
        denoise_mask=latent.get("noise_mask"),
        callback=latent_preview.prepare_callback(model, len(sigmas) - 1),
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=seed,
    )
    if not done.isfinite().all():
        raise ValueError(
            "the latent must be of finite numbers, got others; take another weight_dtype in the loader "
            "(bf16 or fp32), fewer or weaker LoRAs, or another checkpoint"
        )
    return {**latent, "samples": done.to(management.intermediate_device())}


@torch.no_grad()
def sample_ddpm(
    model: Any,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
    disable: bool | None = None,
    *,
    rngs: Sequence[torch.Generator],
) -> Tensor:
    """Return `x` after a run of the package's sampler, with the signature of the host's own.

    The host's x is the package's times sqrt(1 + sigma²), and its model returns the picture in x
    instead of the noise. Where a mask keeps a latent, the host would put it into x with the noise of
    the start; with the noise that is in x it leaves x alone, as the package does.
    """
    pictures: list[Tensor] = []
    mask = (extra_args or {}).get("denoise_mask")

    def denoise(y: Tensor, t: float) -> Tensor:
        sigma = sigma_at(torch.tensor(t))
        scaled = y * scale(sigma)
        if mask is not None:
            model.noise = (scaled - model.latent_image) / sigma
        everywhere = torch.full((len(y),), float(sigma), device=y.device)
        pictures[:] = [model(scaled, everywhere, **(extra_args or {}))]
        return (scaled - pictures[0]) / sigma

    y = x / scale(sigmas[0])
    for i, latent in enumerate(ddpm(denoise, y, time_at(sigmas.cpu()), rngs)):
        y = latent
        if callback is not None:
            now = {"i": i, "x": y, "denoised": pictures[0], "sigma": sigmas[i]}
            callback({**now, "sigma_hat": sigmas[i]})
    if mask is not None and pictures and sigmas[-1] == 0:
        y = torch.lerp(pictures[0], y, mask)  # the last step leaves a trace of noise everywhere
    return y * scale(sigmas[-1])


def scale(sigma: Tensor) -> Tensor:
    """Return the host's x over the package's at `sigma`."""
    return (1 + sigma.square()).sqrt()

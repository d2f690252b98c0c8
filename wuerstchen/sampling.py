"""Diffusion on tensors and numbers: the cosine schedule, times, guidance, noise and the DDPM step.

No network is known here: a sampler takes a callable that predicts noise. All arithmetic is float32,
and times are plain numbers, so that nobody waits for a device between steps.
Source: Nichol and Dhariwal 2021 (equation 17, cosine schedule), Ho et al. 2020 (equations 6 and 7),
Würstchen's `DDPMWuerstchenScheduler`.

t is a time in [0, 1] with 1 = noise; ᾱ (alpha) is the share of the signal's variance at a time.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from .checks import check_whole

Denoiser = Callable[[Tensor, float], Tensor]  # of latents (N, ...), all at one time

S = 0.008
ALPHA_MIN, ALPHA_MAX = 1e-4, 0.9999
LATENT_SCALE, LATENT_SHIFT = 42.0, 1.0
ROUNDING = 1e-6  # of times, which are float32
PLAIN: Any = {"dtype": torch.float32, "device": "cpu"}  # whatever PyTorch's defaults are


def alpha_bar(t: Tensor) -> Tensor:
    """Return ᾱ in [1e-4, 0.9999] for times `t` in [0, 1], float32, same shape."""
    s = torch.tensor(S, dtype=torch.float32, device=t.device)
    start = torch.cos(s / (1 + s) * math.pi * 0.5) ** 2
    alpha = torch.cos((t.float() + s) / (1 + s) * math.pi * 0.5) ** 2 / start
    return alpha.clamp(ALPHA_MIN, ALPHA_MAX)


def published_times() -> Tensor:
    """Return the 30 times of Stage C's published 29-step list: 20 down to 2/3, then 10 down to 0."""
    slow = torch.linspace(1, 2 / 3, 20, **PLAIN)
    fast = torch.linspace(2 / 3, 0, 11, **PLAIN)
    return torch.cat([slow, fast[1:]])


def uniform_times(steps: int) -> Tensor:
    """Return `steps` + 1 times evenly spaced from 1 to 0.

    Raises:
        ValueError: if `steps` is below 1.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    return torch.linspace(1, 0, steps + 1, **PLAIN)


def chosen_times(steps: int | None, start: float = 1.0, end: float = 0.0) -> Tensor:
    """Return falling times from `start` to `end`, evenly spaced, or the published ones between.

    Args:
        steps: number of steps; None is the published list of 29, of which a part may be taken.
        start: first time, 1 = noise.
        end: last time, 0 = picture.

    Raises:
        ValueError: if `steps` is below 1, or not 1 >= start > end >= 0.
    """
    if not 1 >= start > end >= 0:
        raise ValueError(f"times fall from at most 1 to at least 0, got {start} to {end}")
    if steps is not None:
        return end + (start - end) * uniform_times(steps)
    times = published_times()
    inner = times[(times < start) & (times > end)]
    ends = torch.tensor([start, end], **PLAIN)
    return torch.cat([ends[:1], inner, ends[1:]])


def sigma_at(t: Tensor) -> Tensor:
    """Return σ = √((1 - ᾱ) / ᾱ), by which other samplers count, of times `t`; 0 at t = 0.

    float32, same shape.
    """
    alpha = alpha_bar(t)
    return ((1 - alpha) / alpha).sqrt().masked_fill(t <= 0, 0.0)


def time_at(sigma: Tensor) -> Tensor:
    """Return the times of `sigma_at`; 1 from its largest value on, 0 at 0. float32, same shape."""
    angle = S / (1 + S) * math.pi * 0.5
    sigma = sigma.float()
    opposite = (sigma.square() + math.sin(angle) ** 2).sqrt()
    lag = torch.atan2(opposite, torch.full_like(sigma, math.cos(angle)))
    t = (lag * (1 + S) * 2 / math.pi - S).clamp(0, 1)
    t = t.masked_fill(sigma >= ((1 - ALPHA_MIN) / ALPHA_MIN) ** 0.5 * (1 - 1e-6), 1.0)
    return t.masked_fill(sigma <= 0, 0.0)


def to_published(z: Tensor) -> Tensor:
    """Return the semantic latent 42 z - 1, as it is saved and as Stage B takes it, of `z`."""
    return z * LATENT_SCALE - LATENT_SHIFT


def from_published(latent: Tensor) -> Tensor:
    """Return z, of about unit variance, as Stage C samples it, of a semantic latent 42 z - 1."""
    return (latent + LATENT_SHIFT) / LATENT_SCALE


def add_noise(x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Return `x` (N, ...) mixed with `noise` of the same shape at times `t` (N,)."""
    alpha = alpha_bar(t).to(x.device).view(-1, *[1] * (x.ndim - 1))
    return alpha.sqrt() * x + (1 - alpha).sqrt() * noise


def denoiser(step: Callable[..., Tensor], constants: Any) -> Denoiser:
    """Return the denoiser of a network's `step`, which takes a time for each latent."""

    def denoise(x: Tensor, t: float) -> Tensor:
        times = torch.full((len(x),), t, dtype=torch.float32, device=x.device)
        return step(x, times, constants)

    return denoise


def guided(denoise: Denoiser, guidance: float, rescale: float = 0.0) -> Denoiser:
    """Return a denoiser for N latents from one for 2 N: conditional rows first, then unconditional.

    Classifier-free guidance (Ho and Salimans 2022, equation 6) with scale `guidance`, 1 = none; a
    share `rescale` of its result has the deviation of the conditional noise again (Lin et al. 2023,
    equations 15 and 16).
    """

    def denoise_guided(x: Tensor, t: float) -> Tensor:
        cond, uncond = denoise(torch.cat([x, x]), t).chunk(2)
        led = torch.lerp(uncond, cond, guidance)
        if rescale == 0:
            return led
        dims = list(range(1, x.ndim))
        ratio = cond.std(dims, keepdim=True) / led.std(dims, keepdim=True)
        return torch.lerp(led, led * ratio, rescale)

    return denoise_guided


def in_turn(denoisers: Sequence[Denoiser]) -> Denoiser:
    """Return a denoiser that gives each of `denoisers` an equal share of the latents."""

    def denoise(x: Tensor, t: float) -> Tensor:
        shares = zip(denoisers, x.chunk(len(denoisers)), strict=True)
        return torch.cat([one(part, t) for one, part in shares])

    return denoise


def within(start: float, end: float, inside: Denoiser, outside: Denoiser) -> Denoiser:
    """Return a denoiser that is `inside` at times from `start` down to `end`, else `outside`.

    Guidance in an interval (Kynkäänniemi et al. 2024) saves the second network call elsewhere.
    """

    def denoise(x: Tensor, t: float) -> Tensor:
        return (inside if is_within(t, start, end) else outside)(x, t)

    return denoise


def is_within(t: float, start: float, end: float) -> bool:
    """Whether a time lies in the interval from `start` down to `end`, but for its rounding."""
    return end - ROUNDING <= t <= start + ROUNDING


def keeping(denoise: Denoiser, known: Tensor, mask: Tensor) -> Denoiser:
    """Return a denoiser that knows what becomes of a latent: `known` where `mask` is 0.

    There the noise is whatever lies between x and `known`; so any sampler arrives at it, and on the
    way x has the right noise for the network to look at.

    Args:
        denoise: what tells the noise elsewhere.
        known: clean latent, as x.
        mask: (N or 1, 1, h, w) in [0, 1].
    """

    def denoise_unknown(x: Tensor, t: float) -> Tensor:
        alpha = alpha_bar(torch.tensor(t, **PLAIN))
        noise = (x - alpha.sqrt() * known) / (1 - alpha).sqrt()
        return torch.lerp(noise, denoise(x, t), mask)

    return denoise_unknown


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """Return one CPU generator per seed: pictures then do not depend on device, dtype or batch.

    Raises:
        ValueError: if a seed is no whole number from 0 to 2**64 - 1.
    """
    whole = [check_whole("seed", seed, 0, 2**64 - 1) for seed in seeds]
    return [torch.Generator("cpu").manual_seed(seed) for seed in whole]


def draw_noise(
    rngs: Sequence[torch.Generator], shape: Sequence[int], device: torch.device
) -> Tensor:
    """Return standard normal noise (N, *shape), float32; row i is drawn on the CPU from generator i."""
    noise = torch.stack([torch.randn(tuple(shape), generator=one, **PLAIN) for one in rngs])
    if device.type == "cuda":  # copied while the device goes on with the step before
        return noise.pin_memory().to(device, non_blocking=True)
    return noise.to(device)


def ddpm(
    denoise: Denoiser, x: Tensor, times: Tensor, rngs: Sequence[torch.Generator]
) -> Iterator[Tensor]:
    """Yield the latent after each step of ancestral sampling (Ho et al. 2020, algorithm 2).

    Noise is drawn in every step, the last included, where it is not used: so whoever goes on with
    the same generators finds them in the reference's state.

    Args:
        denoise: noise in a latent (N, ...) at a time.
        x: latent at `times[0]`, (N, ...), float32; noise if that time is 1.
        times: falling times in [0, 1], at least two.
        rngs: N generators on the CPU.
    """
    for t, t_next in pairwise(times):
        noise = denoise(x, float(t))
        x = ddpm_step(x, noise, t, t_next, draw_noise(rngs, x.shape[1:], x.device))
        yield x


def last(states: Iterable[Tensor]) -> Tensor:
    """Return the last of a sampler's latents."""
    return deque(states, maxlen=1)[0]


def ddpm_step(x: Tensor, noise: Tensor, t: Tensor, t_next: Tensor, fresh: Tensor) -> Tensor:
    """Return the latent at `t_next` from the latent at `t`, its predicted noise and fresh noise."""
    now, later = alpha_bar(t), alpha_bar(t_next)
    alpha = now / later
    mean = (x - float((1 - alpha) / (1 - now).sqrt()) * noise) * float((1 / alpha).sqrt())
    if float(t_next) == 0:
        return mean
    return mean + float(((1 - alpha) * (1 - later) / (1 - now)).sqrt()) * fresh

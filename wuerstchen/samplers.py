"""Samplers: ways from noise to a latent along falling times, each a generator of latents.

All but `ddpm` go along y = x / √ᾱ, in which the diffusion only adds noise of deviation σ:
dy = ε dσ (Song et al. 2021, equation 13, in the variables of Karras et al. 2022). D is the clean
latent that the network sees in y, λ = -ln σ half the log of signal over noise. The cosine schedule
is continuous, so times, σ and λ are converted in closed form and a list of steps is used as it is.

Every sampler takes a denoiser, x (N, ...) at `times[0]`, falling times and N generators, and yields
x after each step. The deterministic ones draw no noise.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from .sampling import Denoiser, ddpm, draw_noise, sigma_at

Rngs = Sequence[torch.Generator]
Sampler = Callable[[Denoiser, Tensor, Tensor, Rngs], Iterator[Tensor]]
MAX_ORDER = 3  # of the methods with a memory, lms apart
LMS_ORDER = 4


class Trajectory:
    """The times of a run as a sampler of y sees them: σ of each, and the network on y."""

    def __init__(self, denoise: Denoiser, times: Tensor, rngs: Rngs) -> None:
        self.denoise, self.rngs = denoise, rngs
        self.times = [float(t) for t in times]
        self.sigmas = [float(s) for s in sigma_at(times)]
        self.lambdas = [-math.log(s) if s > 0 else math.inf for s in self.sigmas]
        self.steps = list(pairwise(range(len(times))))

    def noise(self, y: Tensor, i: int) -> Tensor:
        """Return the noise ε in y, which is at time i."""
        return self.denoise(y / scale(self.sigmas[i]), self.times[i])

    def clean(self, y: Tensor, i: int) -> Tensor:
        """Return the clean latent D in y, which is at time i."""
        return y - self.sigmas[i] * self.noise(y, i)

    def randn(self, y: Tensor) -> Tensor:
        """Return standard normal noise like y."""
        return draw_noise(self.rngs, y.shape[1:], y.device)


def in_y(solve: Callable[[Trajectory, Tensor], Iterator[Tensor]]) -> Sampler:
    """Return the sampler of x for a solver of y."""

    def sampler(denoise: Denoiser, x: Tensor, times: Tensor, rngs: Rngs) -> Iterator[Tensor]:
        sigmas = sigma_at(times)
        falls = [bool(later < now) for now, later in pairwise(sigmas)]  # flat where ᾱ is clamped
        starts = [i for i, falling in enumerate(falls) if falling]
        run = Trajectory(denoise, times[[*starts, len(falls)]], rngs)
        ys = solve(run, x * scale(float(sigmas[0])))
        for falling, sigma in zip(falls, sigmas[1:], strict=True):
            x = next(ys) / scale(float(sigma)) if falling else x
            yield x

    return sampler


def scale(sigma: float) -> float:
    """Return y over x."""
    return math.sqrt(1 + sigma**2)


def euler(run: Trajectory, y: Tensor) -> Iterator[Tensor]:
    """Follow ε straight on: DDIM with η = 0 (Song et al. 2020, equation 12)."""
    for i, j in run.steps:
        y = y + (run.sigmas[j] - run.sigmas[i]) * run.noise(y, i)
        yield y


def heun(run: Trajectory, y: Tensor) -> Iterator[Tensor]:
    """Follow the mean of ε here and where Euler would arrive (Karras et al. 2022, algorithm 1)."""
    for i, j in run.steps:
        step, noise = run.sigmas[j] - run.sigmas[i], run.noise(y, i)
        tried = y + step * noise
        if run.sigmas[j] > 0:
            tried = y + step * (noise + run.noise(tried, j)) / 2
        y = tried
        yield y


def lms(run: Trajectory, y: Tensor) -> Iterator[Tensor]:
    """Extend ε of the last four steps as a polynomial of σ (Adams and Bashforth)."""
    return adams(run, y, LMS_ORDER, run.sigmas, slopes=lambda sigma: np.ones_like(sigma))


def deis(run: Trajectory, y: Tensor) -> Iterator[Tensor]:
    """Extend ε of the last three steps as a polynomial of t (Zhang and Chen 2023, tAB-DEIS)."""
    return adams(run, y, MAX_ORDER, run.times, slopes=sigma_slopes)


def adams(
    run: Trajectory,
    y: Tensor,
    order: int,
    variable: list[float],
    slopes: Callable[[np.ndarray], np.ndarray],
) -> Iterator[Tensor]:
    """Extend ε as a polynomial of a variable whose change moves σ by `slopes`."""
    noises: list[Tensor] = []
    for i, j in run.steps:
        noises = [*noises, run.noise(y, i)][-order:]
        known = variable[i - len(noises) + 1 : j]
        weights = integrals(known, variable[i], variable[j], slopes)
        weights = weights * ((run.sigmas[j] - run.sigmas[i]) / weights.sum())
        for weight, noise in zip(weights, noises, strict=True):
            y = y + float(weight) * noise
        yield y


def integrals(
    known: list[float], start: float, end: float, slopes: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Return the integral of each Lagrange polynomial through `known` times `slopes`."""
    points, shares = np.polynomial.legendre.leggauss(64)
    at = (start + end) / 2 + (end - start) / 2 * points
    basis = np.ones((len(known), len(at)))
    for k, one in enumerate(known):
        for other in known[:k] + known[k + 1 :]:
            basis[k] *= (at - other) / (one - other)
    result: np.ndarray = (basis * slopes(at) * shares).sum(axis=1) * (end - start) / 2
    return result


def sigma_slopes(times: np.ndarray) -> np.ndarray:
    """Return dσ/dt of the cosine schedule: σ = tan of an angle that grows with t, nearly."""
    step = 1e-4
    ends = [
        sigma_at(torch.from_numpy(np.clip(times + side, 1e-6, 1))).double().numpy()
        for side in (-step, step)
    ]
    result: np.ndarray = (ends[1] - ends[0]) / (2 * step)
    return result


def dpmpp_2m(run: Trajectory, y: Tensor) -> Iterator[Tensor]:
    """DPM-Solver++ of order 2 with a memory of one step (Lu et al. 2022, algorithm 2)."""
    return dpmpp(run, y, order=2, ancestral=False)


def dpmpp_2m_sde(run: Trajectory, y: Tensor) -> Iterator[Tensor]:
    """SDE-DPM-Solver++ of order 2 (Lu et al. 2022)."""
    return dpmpp(run, y, order=2, ancestral=True)


def dpmpp_3m_sde(run: Trajectory, y: Tensor) -> Iterator[Tensor]:
    """The same of order 3, with a memory of two steps."""
    return dpmpp(run, y, order=3, ancestral=True)


def dpmpp(run: Trajectory, y: Tensor, order: int, ancestral: bool) -> Iterator[Tensor]:
    """Integrate D as a polynomial of λ; with `ancestral` noise is taken away twice and added once."""
    cleans: list[Tensor] = []
    for i, j in run.steps:
        cleans = [*cleans, run.clean(y, i)][-order:]
        h = run.lambdas[j] - run.lambdas[i]
        if math.isinf(h):
            y = cleans[-1]
            yield y
            continue
        g = 2 * h if ancestral else h
        y = run.sigmas[j] / run.sigmas[i] * math.exp(h - g) * y - math.expm1(-g) * cleans[-1]
        y = y + higher_order(cleans, run.lambdas[i - len(cleans) + 1 : j], h, g, order)
        if ancestral:
            y = y + run.sigmas[j] * math.sqrt(-math.expm1(-2 * h)) * run.randn(y)
        yield y


def higher_order(
    cleans: list[Tensor], lambdas: list[float], h: float, g: float, order: int
) -> Tensor:
    """Return what the first and second differences of D over λ add to a step."""
    if len(cleans) == 1:
        return torch.zeros_like(cleans[0])
    first = math.expm1(-g) / g + 1
    near = (cleans[-1] - cleans[-2]) * (h / (lambdas[-1] - lambdas[-2]))
    if len(cleans) == 2:
        return (first if order > 2 else -math.expm1(-g) / 2) * near
    r0 = (lambdas[-1] - lambdas[-2]) / h
    r1 = (lambdas[-2] - lambdas[-3]) / h
    far = (cleans[-2] - cleans[-3]) / r1
    slope = near + (near - far) * (r0 / (r0 + r1))
    curve = (near - far) / (r0 + r1)
    return first * slope - (first / g - 0.5) * curve


def unipc(run: Trajectory, y: Tensor) -> Iterator[Tensor]:
    """Predict as DPM-Solver++, then correct by the next D (Zhao et al. 2023, B(h) = eʰ - 1)."""
    cleans: list[Tensor] = []
    start, predicted = y, y
    for i, j in run.steps:
        clean = run.clean(predicted, i)
        if cleans:
            known = run.lambdas[i - len(cleans) : i]
            predicted = unipc_step(run, start, cleans, known, i, clean)
        cleans = [*cleans, clean][-MAX_ORDER:]
        start = predicted
        if math.isinf(run.lambdas[j]):
            predicted = cleans[-1]
        else:
            left = len(run.steps) - i  # the last steps are of lower order
            used = cleans[-min(len(cleans), left) :]
            known = run.lambdas[i - len(used) + 1 : j]
            predicted = unipc_step(run, start, used, known, j, None)
        yield predicted


def unipc_step(
    run: Trajectory,
    y: Tensor,
    cleans: list[Tensor],
    lambdas: list[float],
    j: int,
    found: Tensor | None,
) -> Tensor:
    """Return y at time j from y at the last of `lambdas`; `found` is D at time j, once known."""
    h = run.lambdas[j] - lambdas[-1]
    ratios = [(known - lambdas[-1]) / h for known in lambdas[:-1]]
    bends = [(clean - cleans[-1]) / r for clean, r in zip(cleans[:-1], ratios, strict=True)]
    if found is not None:
        ratios, bends = [*ratios, 1.0], [*bends, found - cleans[-1]]
    y = math.exp(-h) * y - math.expm1(-h) * cleans[-1]
    for weight, change in zip(unipc_weights(ratios, h), bends, strict=True):
        y = y - math.expm1(-h) * float(weight) * change
    return y


def unipc_weights(ratios: list[float], h: float) -> np.ndarray:
    """Return the weight of each difference of D (Zhao et al. 2023)."""
    if len(ratios) <= 1:
        return np.full(len(ratios), 0.5)
    rows, wanted, phi = [], [], math.expm1(-h) / -h - 1
    for k in range(1, len(ratios) + 1):
        rows.append([r ** (k - 1) for r in ratios])
        wanted.append(phi * math.factorial(k) / math.expm1(-h))
        phi = phi / -h - 1 / math.factorial(k + 1)
    weights: np.ndarray = np.linalg.solve(np.array(rows), np.array(wanted))
    return weights


# The names are those of `settings.SAMPLERS`.
SAMPLERS: dict[str, Sampler] = {
    "ddpm": ddpm,
    "ddim": in_y(euler),
    "euler": in_y(euler),
    "euler_ancestral": ddpm,
    "heun": in_y(heun),
    "dpmpp_2m": in_y(dpmpp_2m),
    "dpmpp_2m_sde": in_y(dpmpp_2m_sde),
    "dpmpp_3m_sde": in_y(dpmpp_3m_sde),
    "unipc": in_y(unipc),
    "lms": in_y(lms),
    "deis": in_y(deis),
}

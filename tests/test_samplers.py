"""Samplers, against data whose diffusion is known exactly."""

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from wuerstchen import settings
from wuerstchen.samplers import SAMPLERS
from wuerstchen.sampling import (
    ddpm,
    denoiser,
    generators,
    guided,
    keeping,
    last,
    sigma_at,
    uniform_times,
    within,
)
from wuerstchen.stage_c import StageC, StageCConfig

from .peers import on_meta

STOCHASTIC = {"ddpm", "euler_ancestral", "dpmpp_2m_sde", "dpmpp_3m_sde"}
DETERMINISTIC = sorted(set(SAMPLERS) - STOCHASTIC)
SMALL = StageCConfig(c=32, c_cond=24, c_r=16, depth=2, nhead=2)
VARIANCE = 0.09  # of each of two heaps of numbers, around 1 and -1


def heaps(x: Tensor, t: float) -> Tensor:
    """Return the noise in x when the data are two heaps of numbers."""
    sigma = sigma_at(torch.tensor(t)).double()
    y = x * (1 + sigma**2).sqrt()
    spread = VARIANCE + sigma**2
    return (y - (VARIANCE * y + sigma**2 * torch.tanh(y / spread)) / spread) / sigma


def run(name: str, x: Tensor, steps: int) -> Tensor:
    return last(SAMPLERS[name](heaps, x, uniform_times(steps), generators(range(len(x)))))


def test_every_sampler_that_a_setting_may_name_is_there() -> None:
    assert tuple(SAMPLERS) == settings.SAMPLERS


def start(n: int) -> Tensor:
    return torch.randn(n, 4, 8, 8, generator=torch.Generator().manual_seed(0)).double()


@cache
def truth() -> Tensor:
    return run("heun", start(3), 500)


def error(name: str, steps: int) -> float:
    return float((run(name, start(3), steps) - truth()).abs().mean())


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_more_steps_come_nearer_to_the_true_solution(name: str) -> None:
    first_order = name in ("ddim", "euler")
    assert error(name, 40) < (0.02 if first_order else 0.003)
    assert error(name, 20) / error(name, 40) > (1.8 if first_order else 2.5)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_heaps_come_out_with_their_place_and_width(name: str) -> None:
    distances = run(name, start(64), 60).abs()
    assert float(distances.mean()) == pytest.approx(1, abs=0.02)
    assert float(distances.std()) == pytest.approx(VARIANCE**0.5, abs=0.025)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [200, 400])
def test_so_many_steps_that_some_change_no_noise_end_like_fewer(name: str, steps: int) -> None:
    times = uniform_times(steps)
    assert (sigma_at(times).diff() == 0).any()
    x = start(64)
    done = list(SAMPLERS[name](heaps, x, times, generators(range(len(x)))))
    assert len(done) == steps
    assert float(done[-1].abs().mean()) == pytest.approx(1, abs=0.02)
    assert float(done[-1].abs().std()) == pytest.approx(VARIANCE**0.5, abs=0.025)


@pytest.mark.parametrize("name", sorted(set(SAMPLERS) - {"ddpm", "euler_ancestral"}))
def test_a_run_without_any_change_of_noise_leaves_all_as_it_was(name: str) -> None:
    x = start(1)
    done = list(SAMPLERS[name](heaps, x, torch.tensor([1.0, 0.999, 0.998]), generators([0])))
    assert len(done) == 2
    assert all(torch.equal(one, x) for one in done)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_a_network_that_knows_the_picture_gives_it_back(name: str, steps: int) -> None:
    picture = start(2).float()

    def knows(x: Tensor, t: float) -> Tensor:
        sigma = sigma_at(torch.tensor(t))
        return (x * (1 + sigma**2).sqrt() - picture) / sigma

    x = torch.randn(2, 4, 8, 8)
    done = last(SAMPLERS[name](knows, x, uniform_times(steps), generators([0, 1])))
    trace = 0.04 if SAMPLERS[name] is ddpm else 1e-4  # of noise, which its last step leaves
    torch.testing.assert_close(done, picture, rtol=0, atol=trace)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_picture_does_not_depend_on_its_neighbours(name: str) -> None:
    x, times = start(3), uniform_times(6)
    together = last(SAMPLERS[name](heaps, x, times, generators([5, 6, 7])))
    alone = last(SAMPLERS[name](heaps, x[2:], times, generators([7])))
    torch.testing.assert_close(together[2:], alone, rtol=0, atol=1e-9)


class Traffic(TorchDispatchMode):
    """Counts what is sent to the device."""

    sent = 0

    def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = call(*args, **(kwargs or {}))
        if call is torch.ops.aten._to_copy.default and args[0].device != made.device:
            self.sent += 1
        return made


@pytest.mark.parametrize("name", SAMPLERS)
@torch.no_grad()
def test_steps_read_nothing_from_the_device_and_send_it_noise_at_most(name: str) -> None:
    """The device is "meta", where there is nothing to read: asking for a number fails."""
    network, n, steps = on_meta(StageC, SMALL), 2, 8
    text = torch.empty(2 * n, 5, SMALL.c_cond, device="meta")
    x = torch.empty(n, SMALL.c_in, 6, 6, device="meta")
    led = guided(denoiser(network.step, network.prepare(text)), 4.0, rescale=0.5)
    alone = denoiser(network.step, network.prepare(text[:n]))
    denoise = keeping(within(0.8, 0.3, led, alone), x, x[:, :1])
    with Traffic() as traffic:
        list(SAMPLERS[name](denoise, x, uniform_times(steps), generators(range(n))))
    assert traffic.sent <= (steps if name in STOCHASTIC else 0)


ARRIVES = {
    "ddpm": 1.07232,
    "ddim": 0.04906,
    "euler": 0.04906,
    "euler_ancestral": 1.07232,
    "heun": 0.038072,
    "dpmpp_2m": 0.032068,
    "dpmpp_2m_sde": 1.118639,
    "dpmpp_3m_sde": 1.108347,
    "unipc": 0.028686,
    "lms": 0.015391,
    "deis": 0.007244,
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_arrives_where_it_did(name: str) -> None:
    """Mean distance to the true solution after 12 steps; of those that draw noise, another one's."""
    assert error(name, 12) == pytest.approx(ARRIVES[name], rel=1e-3)

"""Schedule, times, guidance, noise and the DDPM step, against formulas and diffusers' scheduler."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from wuerstchen.sampling import (
    add_noise,
    alpha_bar,
    chosen_times,
    ddpm,
    ddpm_step,
    draw_noise,
    generators,
    guided,
    published_times,
    sigma_at,
    time_at,
    uniform_times,
    within,
)

CPU = torch.device("cpu")
PUBLISHED = """
1.0 0.9824561 0.9649123 0.9473684 0.9298246 0.9122807 0.8947368 0.8771930 0.8596491 0.8421053
0.8245614 0.8070175 0.7894737 0.7719298 0.7543860 0.7368421 0.7192982 0.7017544 0.6842105 0.6666667
0.6 0.5333333 0.4666667 0.4 0.3333333 0.2666667 0.2 0.1333333 0.0666667 0.0
"""
SHAPE = (4, 6, 9)


def make_scheduler(times: Tensor) -> Any:
    pytest.importorskip("diffusers")
    from diffusers.schedulers import DDPMWuerstchenScheduler

    scheduler = DDPMWuerstchenScheduler()
    scheduler.set_timesteps(timesteps=times)
    return scheduler


def predict(x: Tensor, t: float) -> Tensor:
    """Return something that depends on the latent and on the time."""
    return (x * (1 + t)).sin()


def run(times: Tensor, seeds: list[int]) -> Tensor:
    rngs = generators(seeds)
    *_, last = ddpm(predict, draw_noise(rngs, SHAPE, CPU), times, rngs)
    return last


def test_the_signal_share_is_the_clamped_cosine_of_nichol_and_dhariwal() -> None:
    times = [0.0, 0.1, 0.5, 2 / 3, 0.9824561, 1.0]
    shares = [
        math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
        / math.cos(0.008 / 1.008 * math.pi / 2) ** 2
        for t in times
    ]
    wanted = torch.tensor(shares).clamp(1e-4, 0.9999)
    assert torch.allclose(alpha_bar(torch.tensor(times)), wanted, rtol=1e-4)
    facts = torch.tensor([0.9999, 0.972093, 0.493844, 0.246448, 7.4737e-4, 1e-4])
    assert torch.allclose(wanted, facts, rtol=1e-4)


@pytest.mark.peer
def test_the_signal_share_is_bit_for_bit_that_of_diffusers() -> None:
    t = torch.linspace(0, 1, 1001)
    assert torch.equal(alpha_bar(t), make_scheduler(t)._alpha_cumprod(t, CPU))


def test_the_published_times_are_30_numbers() -> None:
    wanted = torch.tensor([float(number) for number in PUBLISHED.split()])
    assert wanted.shape == (30,)
    assert torch.allclose(published_times(), wanted, atol=1e-7)


@pytest.mark.peer
def test_the_published_times_are_those_of_diffusers() -> None:
    pytest.importorskip("diffusers")
    from diffusers.pipelines.deprecated.wuerstchen.pipeline_wuerstchen_prior import (
        DEFAULT_STAGE_C_TIMESTEPS,
    )

    wanted = torch.tensor([float(t) for t in DEFAULT_STAGE_C_TIMESTEPS])
    assert torch.allclose(published_times(), wanted, atol=1e-7)


@pytest.mark.parametrize("steps", [1, 12, 60])
def test_uniform_times_fall_evenly_from_1_to_0(steps: int) -> None:
    times = uniform_times(steps)
    wanted = torch.tensor([1 - i / steps for i in range(steps + 1)])
    assert torch.allclose(times, wanted, atol=1e-6)
    assert (float(times[0]), float(times[-1])) == (1, 0)


@pytest.mark.parametrize("steps", [0, -3])
def test_uniform_times_refuse_fewer_steps_than_one(steps: int) -> None:
    with pytest.raises(ValueError, match=f"steps must be at least 1, got {steps}"):
        uniform_times(steps)


@pytest.mark.peer
@pytest.mark.parametrize(
    "times",
    [published_times(), uniform_times(12), uniform_times(60), uniform_times(12)[:-3]],
    ids=["published", "uniform 12", "uniform 60", "ends before 0"],
)
def test_every_ddpm_step_equals_diffusers_and_leaves_the_generator_in_its_state(
    times: Tensor,
) -> None:
    scheduler = make_scheduler(times)
    ours, theirs = generators([5, 5])
    x = torch.randn(1, *SHAPE, generator=theirs)
    latents = ddpm(predict, draw_noise([ours], SHAPE, CPU), times, [ours])
    for t, y in zip(times[:-1], latents, strict=True):
        x = scheduler.step(predict(x, float(t)), t.view(1), x, generator=theirs).prev_sample
        assert float((y - x).abs().max() / x.abs().max()) < 2e-6
        assert torch.equal(ours.get_state(), theirs.get_state())
        x = y


@pytest.mark.peer
def test_added_noise_equals_diffusers() -> None:
    x, noise = draw_noise(generators([1, 2, 3]), (2, *SHAPE), CPU).unbind(dim=1)
    t = torch.tensor([0.1, 0.5, 0.99])
    assert torch.allclose(add_noise(x, noise, t), make_scheduler(t).add_noise(x, noise, t))


def test_a_last_time_that_is_not_0_leaves_noise_in_the_latent() -> None:
    x, noise, fresh = draw_noise(generators([1, 2, 3]), SHAPE, CPU)
    t, t_next = torch.tensor(0.5), torch.tensor(0.25)
    assert not torch.equal(
        ddpm_step(x, noise, t, t_next, fresh), ddpm_step(x, noise, t, t_next, noise)
    )
    zero = torch.tensor(0.0)
    assert torch.equal(ddpm_step(x, noise, t, zero, fresh), ddpm_step(x, noise, t, zero, noise))


@pytest.mark.parametrize("times", [published_times(), uniform_times(3)], ids=["published", "3"])
def test_the_exact_noise_leads_to_the_latent_that_was_noised(times: Tensor) -> None:
    target = draw_noise(generators([9]), SHAPE, CPU)

    def oracle(x: Tensor, t: float) -> Tensor:
        alpha = alpha_bar(torch.tensor(t))
        return (x - alpha.sqrt() * target) / (1 - alpha).sqrt()

    rngs = generators([1])
    *_, last = ddpm(oracle, draw_noise(rngs, SHAPE, CPU), times, rngs)
    share = float(alpha_bar(torch.tensor(0.0)))  # 0.9999: a trace of noise stays by design
    assert torch.allclose(last, target, atol=5 * (1 - share) ** 0.5)
    assert float((last - target).square().mean().sqrt()) < (1 - share) ** 0.5


@pytest.mark.parametrize("seeds", [[0], [4, 3], [7, 7, 2**40]])
def test_a_row_of_a_batch_is_the_single_run_of_its_seed(seeds: list[int]) -> None:
    batch = run(uniform_times(5), seeds)
    for row, seed in zip(batch.split(1), seeds, strict=True):
        assert torch.equal(row, run(uniform_times(5), [seed]))


def test_noise_is_standard_normal_float32_and_differs_by_seed() -> None:
    first, second = draw_noise(generators([0, 1]), (100, 100), CPU)
    for noise in (first, second):
        assert noise.dtype == torch.float32
        assert abs(float(noise.mean())) < 0.05
        assert abs(float(noise.std()) - 1) < 0.05
    assert abs(float((first * second).mean())) < 0.05


@pytest.mark.parametrize("guidance", [0.0, 0.4, 1.0, 4.0])
def test_guidance_is_torchs_lerp_from_the_unconditional_half(guidance: float) -> None:
    x, wanted, unwanted = draw_noise(generators([1, 2, 3]), (2, *SHAPE), CPU)
    asked: list[tuple[Tensor, float]] = []

    def denoise(both: Tensor, t: float) -> Tensor:
        asked.append((both, t))
        return torch.cat([wanted, unwanted])

    noise = guided(denoise, guidance)(x, 0.3)
    assert torch.equal(noise, torch.lerp(unwanted, wanted, guidance))
    assert torch.allclose(noise, unwanted + guidance * (wanted - unwanted), atol=1e-5)
    assert torch.equal(asked[0][0], torch.cat([x, x]))
    assert asked[0][1] == 0.3


def test_sigma_and_time_are_inverse_of_each_other_up_to_the_ends() -> None:
    times = torch.linspace(0, 0.99, 1000)
    assert torch.equal(time_at(sigma_at(torch.tensor([0.0, 1.0]))), torch.tensor([0.0, 1.0]))
    unclamped = times[times > 0.003]
    torch.testing.assert_close(time_at(sigma_at(unclamped)), unclamped, atol=2e-6, rtol=0)


def test_times_may_be_a_part_of_the_published_list() -> None:
    part = chosen_times(None, 0.5)
    assert part[0] == 0.5
    assert torch.equal(part[1:], published_times()[published_times() < 0.5])
    assert torch.equal(chosen_times(None), published_times())


def test_times_may_be_even_between_two() -> None:
    torch.testing.assert_close(chosen_times(4, 0.8, 0.4), torch.tensor([0.8, 0.7, 0.6, 0.5, 0.4]))


@pytest.mark.parametrize(("start", "end"), [(1.1, 0.0), (0.5, 0.5), (0.5, -0.1)])
def test_times_outside_of_one_to_zero_are_refused(start: float, end: float) -> None:
    with pytest.raises(ValueError, match="times fall"):
        chosen_times(4, start, end)


def test_rescaled_guidance_has_the_contrast_of_no_guidance() -> None:
    parts = torch.randn(4, 3, 8, 8)
    led = guided(lambda x, t: parts, 5.0, rescale=1.0)(torch.zeros(2, 3, 8, 8), 1.0)
    plain = guided(lambda x, t: parts, 5.0)(torch.zeros(2, 3, 8, 8), 1.0)
    torch.testing.assert_close(led.std((1, 2, 3)), parts[:2].std((1, 2, 3)))
    assert (plain.std((1, 2, 3)) > 2 * led.std((1, 2, 3))).all()


def test_an_interval_holds_the_steps_at_its_ends_whatever_their_rounding() -> None:
    def inside(x: Tensor, t: float) -> Tensor:
        return torch.ones_like(x)

    def outside(x: Tensor, t: float) -> Tensor:
        return torch.zeros_like(x)

    x = torch.zeros(1, 1)
    for steps in range(2, 60):
        times = uniform_times(steps)
        for i in range(1, steps):
            denoise = within(i / steps, 0.0, inside, outside)
            guided_at = [bool(denoise(x, float(t))) for t in times[:-1]]
            assert guided_at == [steps - k <= i for k in range(steps)]


def test_a_half_of_the_rescaling_is_half_way() -> None:
    parts = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    plain, half, whole = (
        guided(lambda x, t: parts, 5.0, rescale=share)(torch.zeros(2, 3, 8, 8), 1.0)
        for share in (0.0, 0.5, 1.0)
    )
    torch.testing.assert_close(half, (plain + whole) / 2)


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, "1", None])
def test_a_seed_is_a_whole_number_of_64_bits(seed: Any) -> None:
    with pytest.raises(ValueError, match="seed must be a whole number of at "):
        generators([seed])

"""Stage C against diffusers' `WuerstchenPrior`, on the same weights."""

from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from wuerstchen.stage_c import StageC, StageCConfig

from .peers import (
    available_gigabytes,
    check_no_less_exact,
    error,
    in_dtype,
    random_weights_of,
    share_weights,
    with_weights,
)

NARROW = StageCConfig(c=64, c_cond=48, c_r=32, depth=3, nhead=4)
ODD = StageCConfig(c_in=8, c=96, c_cond=40, c_r=17, depth=2, nhead=3)
MIDDLE = StageCConfig(c=256, c_cond=128, depth=6, nhead=4)


def make_weights(config: StageCConfig, seed: int = 0) -> dict[str, Tensor]:
    """Return random weights with a head that keeps away from b = 1.

    There the head divides by nearly 0, and the output would show only how a last bit is blown up.
    Half of the channels lie on either side of it.
    """
    weights = random_weights_of(StageC, config, seed)
    weights["out.1.bias"][config.c_in :: 2] -= 5
    weights["out.1.bias"][config.c_in + 1 :: 2] += 7
    return weights


make = partial(with_weights, StageC)


def make_peer(config: StageCConfig, weights: dict[str, Tensor]) -> Any:
    pytest.importorskip("diffusers")
    from diffusers.pipelines.deprecated.wuerstchen.modeling_wuerstchen_prior import WuerstchenPrior

    with torch.device("meta"):
        network = WuerstchenPrior(**asdict(config))
    share_weights(weights, network)
    return network


def make_inputs(
    config: StageCConfig, n: int, h: int, w: int, tokens: int = 77, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Return a latent, times that differ from row to row, and text features."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, config.c_in, h, w, generator=generator)
    text = torch.randn(n, tokens, config.c_cond, generator=generator)
    return x, torch.linspace(0.97, 0.03, n), text


@pytest.mark.peer
@pytest.mark.parametrize("config", [NARROW, ODD], ids=["narrow", "odd"])
@pytest.mark.parametrize(
    ("n", "h", "w", "tokens"),
    [(1, 6, 6, 77), (2, 6, 9, 154), (3, 9, 6, 1), (2, 1, 1, 77), (1, 5, 13, 77)],
)
def test_stage_c_equals_diffusers_at_several_sizes(
    config: StageCConfig, n: int, h: int, w: int, tokens: int
) -> None:
    weights = make_weights(config)
    inputs = make_inputs(config, n, h, w, tokens)
    assert error(make(config, weights)(*inputs), make_peer(config, weights)(*inputs)) < 1e-4


@pytest.mark.peer
@pytest.mark.skipif(available_gigabytes() < 8, reason="needs 8 GB of free memory")
def test_the_published_stage_c_equals_diffusers() -> None:
    config = StageCConfig()
    weights = make_weights(config)
    inputs = make_inputs(config, 1, 2, 3)
    assert error(make(config, weights)(*inputs), make_peer(config, weights)(*inputs)) < 1e-4


@pytest.mark.peer
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
@pytest.mark.parametrize("config", [NARROW, MIDDLE], ids=["narrow", "middle"])
@pytest.mark.parametrize("time", [0.0, 0.9])
def test_stage_c_in_half_precision_is_no_less_exact_than_diffusers(
    config: StageCConfig, dtype: torch.dtype, time: float
) -> None:
    """Time 0 is exact in every precision: there the error is that of the network alone."""
    check_no_less_exact(half_runs(config, dtype, time))


def half_runs(
    config: StageCConfig, dtype: torch.dtype, time: float
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield our noise and diffusers' in half precision, and the truth of the same numbers."""
    t = torch.full((2,), time)
    for seed in range(8):
        weights = in_dtype(make_weights(config, seed), dtype)
        x, _, text = (part.to(dtype) for part in make_inputs(config, 2, 6, 9, seed=seed))
        exact = make_peer(config, in_dtype(weights, torch.float32))
        truth = exact(x.float(), t, text.float())
        theirs = make_peer(config, weights)(x, t.to(dtype), text)
        yield make(config, weights)(x.float(), t, text), theirs, truth


def test_stage_c_runs_many_steps_on_constants_prepared_once() -> None:
    network = make(NARROW, make_weights(NARROW))
    x, t, text = make_inputs(NARROW, 2, 6, 9)
    constants = network.prepare(text)
    for time in (t, t / 2, t):
        assert torch.equal(network.step(x, time, constants), network(x, time, text))


def test_a_row_of_a_stage_c_batch_is_the_single_run() -> None:
    network = make(NARROW, make_weights(NARROW))
    inputs = make_inputs(NARROW, 3, 6, 9)
    for i, row in enumerate(network(*inputs).split(1)):
        assert error(network(*(part[i : i + 1] for part in inputs)), row) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def test_stage_c_predicts_in_float32_whatever_its_weights_are(dtype: torch.dtype) -> None:
    network = make(NARROW, in_dtype(make_weights(NARROW), dtype))
    x, t, text = make_inputs(NARROW, 2, 6, 9)
    assert network(x, t, text.to(dtype)).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_where_b_is_1_the_head_of_stage_c_divides_by_a_float32_1e_5(dtype: torch.dtype) -> None:
    weights = make_weights(NARROW)
    weights["out.1.weight"].zero_()
    weights["out.1.bias"][:] = torch.tensor([0.0, 1.0]).repeat_interleave(NARROW.c_in)
    x, t, text = make_inputs(NARROW, 2, 6, 9)
    noise = make(NARROW, in_dtype(weights, dtype))(x, t, text.to(dtype))
    assert torch.allclose(noise, x / 1e-5, rtol=1e-6)


def test_stage_c_refuses_heads_that_do_not_divide_the_channels() -> None:
    with pytest.raises(ValueError, match="nhead must divide c = 64, got 5"):
        StageCConfig(c=64, nhead=5)


def test_stage_c_refuses_a_size_of_zero() -> None:
    with pytest.raises(ValueError, match="must be positive"):
        StageCConfig(depth=0)

"""Stage B against diffusers' `WuerstchenDiffNeXt`, on the same weights."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import lru_cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wuerstchen.arithmetic import weight_and_bias
from wuerstchen.layers import ResBlock, to_map
from wuerstchen.stage_b import StageB, StageBConfig, prepare_block, resize_effnet

from .peers import (
    available_gigabytes,
    check_no_less_exact,
    error,
    in_dtype,
    random_weights,
    random_weights_of,
    share_weights,
    with_weights,
)

THREE = StageBConfig(
    c_hidden=(32, 48, 64),
    nhead=(-1, 3, 4),
    blocks=(1, 2, 2),
    level_config=("CT", "CTA", "CTA"),
    inject_effnet=(False, True, True),
    c_cond=40,
    clip_embd=24,
    c_r=32,
)
TWO = StageBConfig(
    c_in=3,
    c_out=3,
    c_hidden=(16, 24),
    nhead=(2, 3),
    blocks=(2, 1),
    level_config=("CTA", "TCA"),
    inject_effnet=(True, False),
    effnet_embd=5,
    patch_size=4,
    kernel_size=5,
    c_cond=16,
    clip_embd=24,
    c_r=17,
)
FOUR = StageBConfig(
    c_hidden=(64, 96, 128, 128),
    nhead=(-1, 3, 4, 4),
    blocks=(1, 2, 3, 1),
    c_cond=128,
    clip_embd=64,
)


make_weights = partial(random_weights_of, StageB)
make = partial(with_weights, StageB)


def make_peer(config: StageBConfig, weights: dict[str, Tensor]) -> Any:
    network = build_peer(config)
    share_weights(weights, network)
    return network


@lru_cache(maxsize=1)
def build_peer(config: StageBConfig) -> Any:
    """Return diffusers' network without weights; building it takes longer than running it."""
    pytest.importorskip("diffusers")
    from diffusers.pipelines.deprecated.wuerstchen.modeling_wuerstchen_diffnext import (
        WuerstchenDiffNeXt,
    )

    lists = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(config).items()}
    with torch.device("meta"):
        return WuerstchenDiffNeXt(**lists)


def make_inputs(
    config: StageBConfig, n: int, h: int, w: int, tokens: int = 77, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return a VQ latent, times that differ from row to row, text features and a semantic latent."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, config.c_in, h, w, generator=generator)
    text = torch.randn(n, tokens, config.clip_embd, generator=generator)
    cells = [max(1, round(side * 3 / 32)) for side in (h, w)]
    effnet = torch.randn(n, config.effnet_embd, *cells, generator=generator) * 3 - 1
    return x, torch.linspace(0.97, 0.03, n), text, effnet


def compare(config: StageBConfig, inputs: tuple[Tensor, Tensor, Tensor, Tensor]) -> float:
    """Return the error of our network against diffusers' on the same weights and inputs."""
    weights = make_weights(config)
    x, t, text, effnet = inputs
    return error(make(config, weights)(*inputs), make_peer(config, weights)(x, t, effnet, text))


@pytest.mark.peer
@pytest.mark.parametrize(
    ("n", "h", "w", "tokens"),
    [(1, 32, 32, 77), (2, 32, 48, 154), (3, 48, 32, 1), (2, 16, 16, 77), (1, 16, 80, 77)],
)
@pytest.mark.parametrize("config", [TWO, THREE, FOUR], ids=["two", "three", "four"])
def test_stage_b_equals_diffusers_at_several_sizes(
    config: StageBConfig, n: int, h: int, w: int, tokens: int
) -> None:
    assert compare(config, make_inputs(config, n, h, w, tokens)) < 1e-4


@pytest.mark.peer
@pytest.mark.skipif(available_gigabytes() < 8, reason="needs 8 GB of free memory")
def test_the_published_stage_b_equals_diffusers() -> None:
    config = StageBConfig()
    assert compare(config, make_inputs(config, 1, 32, 48)) < 1e-4


@pytest.mark.peer
@pytest.mark.parametrize("kinds", ["TCA", "ACT", "TA"])
def test_stage_b_equals_diffusers_where_a_level_does_not_begin_with_a_convolution(
    kinds: str,
) -> None:
    """There the map from the way down is dropped."""
    config = replace(TWO, level_config=(kinds, "CTA"))
    assert compare(config, make_inputs(config, 2, 32, 48)) < 1e-4


@pytest.mark.peer
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
@pytest.mark.parametrize("time", [0.0, 0.9])
@pytest.mark.parametrize("config", [THREE, FOUR], ids=["three", "four"])
def test_stage_b_in_half_precision_is_no_less_exact_than_diffusers(
    config: StageBConfig, dtype: torch.dtype, time: float
) -> None:
    """Time 0 is exact in every precision: there the error is that of the network alone."""
    check_no_less_exact(half_runs(config, dtype, time))


def half_runs(
    config: StageBConfig, dtype: torch.dtype, time: float
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield our noise and diffusers' in half precision, and the truth of the same numbers."""
    t = torch.full((2,), time)
    for seed in range(8):
        weights = in_dtype(make_weights(config, seed), dtype)
        x, _, text, effnet = (part.to(dtype) for part in make_inputs(config, 2, 32, 48, seed=seed))
        exact = make_peer(config, in_dtype(weights, torch.float32))
        truth = exact(x.float(), t, effnet.float(), text.float())
        theirs = make_peer(config, weights)(x, t.to(dtype), effnet, text)
        yield make(config, weights)(x.float(), t, text, effnet.float()), theirs, truth


def test_stage_b_runs_many_steps_on_constants_prepared_once() -> None:
    network = make(THREE, make_weights(THREE))
    x, t, text, effnet = make_inputs(THREE, 2, 32, 48)
    constants = network.prepare(text, effnet, (32, 48))
    for time in (t, t / 2, t):
        assert torch.equal(network.step(x, time, constants), network(x, time, text, effnet))


def test_the_folded_effnet_share_equals_the_product_with_all_columns() -> None:
    block, mapper = ResBlock(24, c_skip=12 + 96), nn.Conv2d(16, 96, kernel_size=1)
    for module in (block, mapper):
        share_weights(random_weights(module.state_dict()), module)
    x, skip = torch.randn(2, 24, 6, 9), torch.randn(2, 12, 6, 9)
    features = resize_effnet(torch.randn(2, 16, 3, 4), (6, 9))
    share = prepare_block(block, torch.empty(0), features, mapper)
    unfolded = block(x, skip=torch.cat([skip, mapper(to_map(features))], dim=1))
    assert error(block(x, skip=skip, share=share), unfolded) < 1e-6


def test_a_replaced_layer_whose_weights_would_be_folded_is_refused() -> None:
    block, mapper = ResBlock(24, c_skip=96), nn.Conv2d(16, 96, kernel_size=1)
    first: Any = block.channelwise[0]
    before = first.forward
    first.forward = partial(F.linear, weight=first.weight)
    prepare = partial(prepare_block, block, torch.empty(0), torch.randn(1, 6, 9, 16), mapper)
    with pytest.raises(ValueError, match="load that LoRA into the weights"):
        prepare()
    first.forward = before
    assert prepare() is not None


def test_a_layer_may_say_how_its_weights_are_fetched() -> None:
    class Doubled(nn.Linear):
        def fetch(self, like: Tensor) -> tuple[Tensor, Tensor]:
            return 2 * self.weight.to(like), 2 * self.bias.to(like)

    plain, doubled = nn.Linear(3, 4), Doubled(3, 4)
    doubled.load_state_dict(plain.state_dict())
    with torch.no_grad():
        assert torch.equal(weight_and_bias(doubled, torch.empty(0))[0], 2 * plain.weight)
        assert torch.equal(weight_and_bias(plain, torch.empty(0))[1], plain.bias)


def test_a_row_of_a_stage_b_batch_is_the_single_run() -> None:
    network = make(THREE, make_weights(THREE))
    inputs = make_inputs(THREE, 3, 32, 48)
    for i, row in enumerate(network(*inputs).split(1)):
        assert error(network(*(part[i : i + 1] for part in inputs)), row) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def test_stage_b_predicts_in_float32_whatever_its_weights_are(dtype: torch.dtype) -> None:
    network = make(THREE, in_dtype(make_weights(THREE), dtype))
    x, t, text, effnet = make_inputs(THREE, 2, 32, 48)
    assert network(x, t, text.to(dtype), effnet).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_where_b_is_very_negative_the_head_of_stage_b_divides_by_a_float32_1e_3(
    dtype: torch.dtype,
) -> None:
    weights = make_weights(THREE)
    weights["clf.1.weight"].zero_()
    weights["clf.1.bias"][:] = torch.tensor([0.0, -40.0]).repeat_interleave(4 * THREE.c_out)
    x, t, text, effnet = make_inputs(THREE, 2, 32, 48)
    noise = make(THREE, in_dtype(weights, dtype))(x, t, text.to(dtype), effnet)
    assert torch.allclose(noise, x / 1e-3, rtol=1e-6)


@pytest.mark.parametrize(("config", "multiple"), [(TWO, 8), (THREE, 8), (StageBConfig(), 16)])
def test_the_granularity_is_what_the_levels_halve(config: StageBConfig, multiple: int) -> None:
    assert config.granularity == multiple


@pytest.mark.parametrize("size", [(36, 32), (32, 36), (4, 8)])
def test_stage_b_refuses_sizes_that_do_not_halve_evenly(size: tuple[int, int]) -> None:
    network = make(THREE, make_weights(THREE))
    _, _, text, effnet = make_inputs(THREE, 1, 32, 32)
    with pytest.raises(ValueError, match="must be multiples of 8, got"):
        network.prepare(text, effnet, size)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"blocks": (1, 2)}, "one entry per level"),
        ({"level_config": ("CT", "CXA", "CTA", "CTA")}, "may hold C, T and A"),
        ({"nhead": (-1, 7, 20, 20)}, "nhead must divide c_hidden = 640, got 7"),
    ],
)
def test_stage_b_refuses_sizes_that_do_not_fit(entries: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StageBConfig(**entries)

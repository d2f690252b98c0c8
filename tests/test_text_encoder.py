"""The text encoder against transformers' `CLIPTextModel`, on the same weights."""

from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from wuerstchen.layers import LayerNorm
from wuerstchen.placement import Placement
from wuerstchen.text_encoder import TextEncoder, TextEncoderConfig

from .peers import (
    available_gigabytes,
    check_no_less_exact,
    error,
    in_dtype,
    random_weights_of,
    share_weights,
    with_weights,
)

H = TextEncoderConfig(
    hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16
)
NARROW = TextEncoderConfig(
    hidden_size=48,
    intermediate_size=80,
    num_hidden_layers=3,
    num_attention_heads=4,
    vocab_size=50,
    max_position_embeddings=12,
    layer_norm_eps=1e-4,
)
MIDDLE = TextEncoderConfig(
    hidden_size=256,
    intermediate_size=1024,
    num_hidden_layers=8,
    num_attention_heads=4,
    vocab_size=200,
)


make_weights = partial(random_weights_of, TextEncoder)
make = partial(with_weights, TextEncoder)


def make_peer(config: TextEncoderConfig, weights: dict[str, Tensor]) -> Any:
    """Return transformers' network; of version 4 with its prefix."""
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        network: Any = CLIPTextModel(
            CLIPTextConfig(**asdict(config), bos_token_id=0, eos_token_id=1)
        )
    wrapped = next(iter(network.state_dict())).startswith("text_model.")
    share_weights({"text_model." * wrapped + key: x for key, x in weights.items()}, network)
    embeddings = next(part for part in network.modules() if hasattr(part, "position_ids"))
    embeddings.position_ids = torch.arange(config.max_position_embeddings)[None]
    return network


def make_inputs(config: TextEncoderConfig, *lengths: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return the tokens of chunks with `lengths` tokens before their padding, and their mask."""
    generator = torch.Generator().manual_seed(seed)
    shape = len(lengths), config.max_position_embeddings
    numbers = torch.randint(config.vocab_size, shape, generator=generator)
    return numbers, torch.arange(shape[1]) < torch.tensor(lengths)[:, None]


def peer_features(network: Any, numbers: Tensor, mask: Tensor) -> Tensor:
    features: Tensor = network(numbers, mask.long()).last_hidden_state
    return features


@pytest.mark.parametrize("config", [NARROW, MIDDLE], ids=["narrow", "middle"])
@pytest.mark.parametrize("lengths", [(2,), (12, 5, 1)])
def test_the_text_encoder_equals_transformers(
    config: TextEncoderConfig, lengths: tuple[int, ...]
) -> None:
    weights, inputs = make_weights(config), make_inputs(config, *lengths)
    truth = peer_features(make_peer(config, weights), *inputs)
    assert error(make(config, weights)(*inputs), truth) < 1e-5


@pytest.mark.peer
@pytest.mark.skipif(available_gigabytes() < 8, reason="needs 8 GB of free memory")
@pytest.mark.parametrize("config", [TextEncoderConfig(), H], ids=["bigG", "H"])
def test_the_published_text_encoders_equal_transformers(config: TextEncoderConfig) -> None:
    weights, inputs = make_weights(config), make_inputs(config, 9)
    truth = peer_features(make_peer(config, weights), *inputs)
    assert error(make(config, weights)(*inputs), truth) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def test_the_text_encoder_in_half_precision_is_no_less_exact_than_transformers(
    dtype: torch.dtype,
) -> None:
    check_no_less_exact(half_runs(MIDDLE, dtype))


def half_runs(
    config: TextEncoderConfig, dtype: torch.dtype
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield our features and those of transformers in half precision, and the truth."""
    for seed in range(8):
        weights = in_dtype(make_weights(config, seed), dtype)
        inputs = make_inputs(config, 9, 2, seed=seed)
        truth = peer_features(make_peer(config, in_dtype(weights, torch.float32)), *inputs)
        theirs = peer_features(make_peer(config, weights), *inputs)
        yield make(config, weights)(*inputs), theirs, truth


def test_a_token_sees_none_that_follows_and_no_padding() -> None:
    network = make(NARROW, make_weights(NARROW))
    numbers, mask = make_inputs(NARROW, 6)
    features = network(numbers, mask)
    for changed, same in ((4, slice(0, 4)), (8, slice(0, 8))):
        others = numbers.clone()
        others[0, changed] = (others[0, changed] + 1) % NARROW.vocab_size
        found = network(others, mask)
        assert error(found[:, same], features[:, same]) < 1e-6
        assert error(found[:, changed], features[:, changed]) > 1e-2
    apart = network(others, mask)[:, 9:] - features[:, 9:]
    assert apart.abs().max() < 1e-6  # token 8, which changed last, is padding: none looks at it


def test_layers_that_rest_elsewhere_give_the_same_features() -> None:
    weights, inputs = make_weights(NARROW), make_inputs(NARROW, 6, 3)
    placement = Placement(offload="layer")
    with torch.device("meta"):
        network = TextEncoder(NARROW, placement.ops)
    share_weights(weights, network)
    with placement.running(placement.settle(network)):
        found = network(*inputs)
    assert error(found, make(NARROW, weights)(*inputs)) < 1e-6


def test_its_norms_take_the_precision_of_what_they_norm() -> None:
    norm = LayerNorm(8)
    assert norm(torch.randn(2, 8, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="must divide hidden_size = 1280, got 7"):
        TextEncoderConfig(num_attention_heads=7)
    with pytest.raises(ValueError, match="hidden_act must be gelu, as published, got 'quick_gelu'"):
        TextEncoderConfig(hidden_act="quick_gelu")

"""Stage A against diffusers' `PaellaVQModel`, on the same weights."""

from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from wuerstchen.stage_a import ReplicationPad, StageA, StageAConfig, bands

from .peers import (
    check_no_less_exact,
    error,
    in_dtype,
    random_weights_of,
    share_weights,
    with_weights,
)

SMALL = StageAConfig(bottleneck_blocks=2, embed_dim=32, num_vq_embeddings=64)
DEEP = StageAConfig(
    in_channels=1,
    out_channels=2,
    levels=3,
    bottleneck_blocks=1,
    embed_dim=48,
    latent_channels=3,
    num_vq_embeddings=50,
    scale_factor=0.7,
)
MIDDLE = StageAConfig(bottleneck_blocks=6, embed_dim=128)

Run = tuple[Tensor, Tensor, Tensor]


make_weights = partial(random_weights_of, StageA)
make = partial(with_weights, StageA)


def make_peer(config: StageAConfig, weights: dict[str, Tensor]) -> Any:
    pytest.importorskip("diffusers")
    from diffusers.pipelines.deprecated.wuerstchen.modeling_paella_vq_model import PaellaVQModel

    with torch.device("meta"):
        network = PaellaVQModel(**asdict(config))
    share_weights(weights, network)
    return network


def make_inputs(
    config: StageAConfig, n: int, h: int, w: int, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Return a picture in [0, 1] and a VQ latent."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.rand(n, config.in_channels, h, w, generator=generator)
    cells = h // config.downscale, w // config.downscale
    return pixels, torch.randn(n, config.latent_channels, *cells, generator=generator) * 2


@pytest.mark.peer
@pytest.mark.parametrize(
    "config", [SMALL, DEEP, StageAConfig()], ids=["small", "deep", "published"]
)
@pytest.mark.parametrize(("n", "h", "w"), [(1, 64, 64), (2, 32, 48), (3, 48, 32), (1, 8, 40)])
def test_stage_a_equals_diffusers_at_several_sizes(
    config: StageAConfig, n: int, h: int, w: int
) -> None:
    weights, scale = make_weights(config), config.scale_factor
    ours, peer = make(config, weights), make_peer(config, weights)
    pixels, latent = make_inputs(config, n, h, w)
    assert error(ours.encode(pixels), peer.encode(pixels).latents / scale) < 1e-4
    assert error(ours.decode(latent), peer.decode(latent * scale).sample) < 1e-4
    quantized = peer.decode(latent * scale, force_not_quantize=False).sample
    assert error(ours.decode(ours.quantize(latent)[0]), quantized) < 1e-4


@pytest.mark.peer
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
@pytest.mark.parametrize("config", [SMALL, MIDDLE], ids=["small", "middle"])
def test_stage_a_in_half_precision_is_no_less_exact_than_diffusers(
    config: StageAConfig, dtype: torch.dtype
) -> None:
    encoded, decoded = zip(*half_runs(config, dtype), strict=True)
    check_no_less_exact(encoded)
    check_no_less_exact(decoded)


def half_runs(config: StageAConfig, dtype: torch.dtype) -> Iterator[tuple[Run, Run]]:
    """Yield an encoding and a decoding: ours and diffusers' in half precision, and the truth."""
    scale = config.scale_factor
    for seed in range(8):
        weights = in_dtype(make_weights(config, seed), dtype)
        pixels, latent = (part.to(dtype) for part in make_inputs(config, 2, 64, 96, seed))
        ours, peer = make(config, weights), make_peer(config, weights)
        exact = make_peer(config, in_dtype(weights, torch.float32))
        true_latent = exact.encode(pixels.float()).latents / scale
        true_pixels = exact.decode(latent.float() * scale).sample
        yield (
            (ours.encode(pixels), peer.encode(pixels).latents / scale, true_latent),
            (ours.decode(latent), peer.decode(latent * scale).sample, true_pixels),
        )


def test_a_picture_decoded_in_bands_is_that_decoded_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    network = make(SMALL, make_weights(SMALL))
    latent = make_inputs(SMALL, 2, 64, 96)[1]
    whole = network.decode(latent)
    monkeypatch.setattr("wuerstchen.stage_a.BAND", 150)
    assert len(bands(latent)) == 6
    assert error(network.decode(latent), whole) < 1e-6


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_border_repeats_the_outermost_cells_and_stays_channels_last(device: str) -> None:
    x = torch.randn(2, 3, 4, 5, device=device).to(memory_format=torch.channels_last)
    padded = ReplicationPad()(x)
    assert padded.is_contiguous(memory_format=torch.channels_last)
    if device == "cpu":
        assert torch.equal(padded, nn.ReplicationPad2d(1)(x))


def test_quantize_finds_the_nearest_entry_of_the_codebook() -> None:
    network = make(SMALL, make_weights(SMALL))
    latent = make_inputs(SMALL, 2, 64, 96)[1]
    entries, numbers = network.quantize(latent)
    table = network.vquantizer.embedding.weight / SMALL.scale_factor
    distances = (latent[:, None] - table[None, :, :, None, None]).square().sum(dim=2)
    assert torch.equal(numbers, distances.argmin(dim=1))
    assert torch.allclose(entries, table[numbers].permute(0, 3, 1, 2))


def test_quantize_leaves_entries_of_the_codebook_as_they_are() -> None:
    network = make(SMALL, make_weights(SMALL))
    once, numbers = network.quantize(make_inputs(SMALL, 2, 64, 96)[1])
    twice, again = network.quantize(once)
    assert torch.equal(numbers, again)
    assert torch.equal(once, twice)


@pytest.mark.parametrize("shape", [(66, 64), (64, 66), (63, 64)])
def test_stage_a_refuses_pictures_that_do_not_halve_evenly(shape: tuple[int, int]) -> None:
    network = make(SMALL, make_weights(SMALL))
    with pytest.raises(ValueError, match="must be multiples of 4, got"):
        network.encode(torch.zeros(1, 3, *shape))


@pytest.mark.parametrize("entries", [{"levels": 0}, {"scale_factor": 0.0}])
def test_stage_a_refuses_sizes_that_are_not_positive(entries: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        StageAConfig(**entries)

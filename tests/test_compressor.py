"""The compressor against the published keys and against torchvision's EfficientNetV2-S."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from wuerstchen.compressor import Compressor, CompressorConfig, Stage, prepare_pixels

GOLDEN = Path(__file__).parent / "golden"


def sine(shape: Sequence[int], phase: float) -> Tensor:
    """Return numbers in [-1, 1] without a pattern, the same on every machine and in every torch."""
    numbers = torch.arange(math.prod(shape), dtype=torch.float64)
    return (
        torch.sin(numbers * 12.9898 + numbers.square() * 0.0078233 + phase)
        .float()
        .reshape(tuple(shape))
    )


def sine_weights(shapes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights for a state dict that keep the activations of all blocks near 1."""
    weights = {}
    for i, (key, like) in enumerate(shapes.items()):
        numbers = sine(like.shape, i)
        if like.ndim == 4:
            weights[key] = numbers * (2 / like[0].numel()) ** 0.5
        elif key.endswith("running_var"):
            weights[key] = 1 + numbers / 2
        elif key.endswith("weight"):
            weights[key] = 0.9 + numbers / 5
        else:
            weights[key] = numbers / 5 if like.is_floating_point() else torch.tensor(7)
    return weights


@pytest.fixture(scope="module")
def published() -> Compressor:
    with torch.device("meta"):
        network = Compressor()
    network.load_state_dict(sine_weights(network.state_dict()), assign=True)
    return network.eval().requires_grad_(False)


def test_the_published_compressor_has_the_keys_and_shapes_of_the_authors_file(
    published: Compressor,
) -> None:
    lines = (GOLDEN / "keys_effnet.txt").read_text().splitlines()
    wanted = [tuple(line.split("\t")[:2]) for line in lines]
    assert [(k, str(list(v.shape))) for k, v in published.state_dict().items()] == wanted


def test_the_published_compressor_equals_torchvision(published: Compressor) -> None:
    """The golden output is torchvision's, of the same weights and pixels.

    Made on the CPU with torch 2.13.0 and torchvision 0.29.2: `efficientnet_v2_s().features` as
    "backbone", then a 1×1 convolution 1280 -> 16 without bias and `BatchNorm2d(16)` as "mapper",
    `load_state_dict(sine_weights(...))`, evaluation mode, input `sine((2, 3, 64, 96), 0) * 2`.
    """
    golden = load_file(GOLDEN / "compressor.safetensors")["raw"]
    raw = published(sine((2, 3, 64, 96), 0) * 2)
    assert raw.shape == golden.shape == (2, 16, 2, 3)
    assert float((raw - golden).abs().max() / golden.abs().max()) < 1e-4


@pytest.mark.parametrize(("side", "prepared"), [(1024, 768), (256, 192), (128, 96), (8, 32)])
def test_prepared_pixels_have_32_rows_per_semantic_cell(side: int, prepared: int) -> None:
    pixels = prepare_pixels(torch.zeros(1, 3, side, 2 * side))
    assert pixels.shape[2] == prepared
    assert pixels.shape[3] == max(32, prepared * 2 if side > 8 else 32)


def test_prepared_colours_are_normed_as_imagenets() -> None:
    colour = torch.tensor([0.1, 0.5, 0.9])
    prepared = prepare_pixels(colour.view(1, 3, 1, 1).expand(1, 3, 128, 128))
    normed = [(0.1 - 0.485) / 0.229, (0.5 - 0.456) / 0.224, (0.9 - 0.406) / 0.225]
    wanted = torch.tensor(normed).view(1, 3, 1, 1).expand_as(prepared)
    assert torch.allclose(prepared, wanted, atol=1e-5)


def test_prepared_pixels_are_triangle_weighted_means() -> None:
    """Resizing by 0.75 with antialiasing: a triangle of 4/3 pixels around each new pixel's centre."""
    row = torch.rand(128, generator=torch.Generator().manual_seed(0))
    pixels = row.expand(1, 3, 128, 128)
    wanted = []
    for i in range(96):
        distances = (torch.arange(128) + 0.5 - (i + 0.5) * 4 / 3) * 3 / 4
        weights = (1 - distances.abs()).clamp(min=0)
        wanted.append((weights * row).sum() / weights.sum())
    red = prepare_pixels(pixels)[0, 0] * 0.229 + 0.485
    assert torch.allclose(red, torch.stack(wanted).expand(96, 96), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_prepared_pixels_are_float32(dtype: torch.dtype) -> None:
    assert prepare_pixels(torch.zeros(1, 3, 128, 128, dtype=dtype)).dtype == torch.float32


def test_a_row_of_a_compressed_batch_is_the_single_run(published: Compressor) -> None:
    pixels = sine((2, 3, 64, 96), 0)
    rows = torch.cat([published(row) for row in pixels.split(1)])
    assert torch.allclose(published(pixels), rows, atol=1e-4)


@pytest.mark.parametrize("stages", [(), (Stage(fused=True, expand=1, stride=4, c=8, layers=1),)])
def test_the_compressor_refuses_strides_that_do_not_make_32(stages: Any) -> None:
    with pytest.raises(ValueError, match="must multiply to 32, got"):
        CompressorConfig(stages=stages)

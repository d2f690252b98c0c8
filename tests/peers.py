"""What the comparisons with diffusers share: weights that are nowhere zero, errors, pipelines."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from PIL.Image import Image
from torch import Tensor, nn

from wuerstchen import Settings
from wuerstchen.memory import memory_left

Network = TypeVar("Network", bound=nn.Module)

BLOCK = 1_000_003  # a prime, so that no row of a matrix repeats another


def random_weights(shapes: Mapping[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
    """Return a random tensor for each entry of a state dict, no number of them zero.

    All are cut from one block of noise, since drawing 10⁹ numbers takes longer than the networks.
    """
    noise = torch.randn(BLOCK, generator=torch.Generator().manual_seed(seed)).repeat(2)
    weights, start = {}, 0
    for key, like in shapes.items():
        tensor = torch.empty(like.shape, dtype=torch.float32)
        for chunk in tensor.view(-1).split(BLOCK):
            torch.mul(noise[start : start + len(chunk)], gain(key, like), out=chunk)
            start = (start + len(chunk)) % BLOCK
        weights[key] = tensor.abs_().add_(0.5) if key.endswith("running_var") else tensor
        if not like.is_floating_point():
            weights[key] = torch.full(like.shape, 7, dtype=like.dtype)
    return weights


def gain(key: str, like: Tensor) -> float:
    """Return the spread of a tensor's numbers that keeps activations near 1 through all blocks."""
    if like.ndim < 2 or key.endswith(("gamma", "beta")):
        return 0.3
    is_time = key.endswith(".mapper.weight")
    return float((0.3 if is_time else 1.0) * like[0].numel() ** -0.5)


def normal(*shape: int) -> Tensor:
    """Return standard normal numbers, the same for the same shape."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def levels(image: Image) -> np.ndarray[Any, Any]:
    """Return the levels of an image, 0 to 255, as numbers that may be subtracted."""
    return np.asarray(image).astype(int)


def in_dtype(weights: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the weights rounded to `dtype`; counters stay whole numbers."""
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in weights.items()}


def on_meta(kind: Callable[..., Network], *given: Any, **config: Any) -> Network:
    """Return a network without memory."""
    with torch.device("meta"):
        return kind(*given, **config).eval()


def random_weights_of(
    kind: Callable[..., nn.Module], config: Any, seed: int = 0
) -> dict[str, Tensor]:
    """Return `random_weights` for a network of ours."""
    return random_weights(on_meta(kind, config).state_dict(), seed)


def with_weights(
    kind: Callable[..., Network], config: Any, weights: Mapping[str, Tensor], **layers: Any
) -> Network:
    """Return a network of ours that has these very tensors, of other `layers` if given as `ops`."""
    network = on_meta(kind, config, **layers)
    share_weights(weights, network)
    return network


def share_weights(weights: Mapping[str, Tensor], *networks: nn.Module) -> None:
    """Give all networks the very same tensors, so that they take memory once."""
    for network in networks:
        network.load_state_dict(weights, assign=True)
        network.eval().requires_grad_(False)


def error(ours: Tensor, truth: Tensor) -> float:
    """Return the largest difference, relative to the largest number of `truth`."""
    assert ours.shape == truth.shape
    assert truth.isfinite().all()
    assert truth.abs().max() > 0
    return float((ours.float() - truth).abs().max() / truth.abs().max())


def mean_error(ours: Tensor, truth: Tensor) -> float:
    """Return the mean difference, relative to the mean size of the numbers of `truth`."""
    return float((ours.float() - truth).abs().mean() / truth.abs().mean())


def peak_error(ours: Tensor, truth: Tensor) -> float:
    """Return the mean of the largest 0.1 % of differences, relative to the largest of `truth`."""
    differences = (ours.float() - truth).abs().flatten()
    return float(
        differences.topk(max(1, len(differences) // 1000)).values.mean() / truth.abs().max()
    )


def check_no_less_exact(runs: Iterable[tuple[Tensor, Tensor, Tensor]]) -> None:
    """Check the errors of ours and theirs, in half precision, against the truth in float32.

    The largest single error of a run is chance (its ratio to theirs spreads by a third from seed to
    seed), so the largest 0.1 % stand for it, with 5 % for the chance that is left.
    """
    errors = [
        [kind(y, truth) for kind in (mean_error, peak_error) for y in (ours, theirs)]
        for ours, theirs, truth in runs
    ]
    mean, their_mean, peak, their_peak = torch.tensor(errors).mean(dim=0).tolist()
    assert 0 < mean <= their_mean
    assert 0 < peak <= 1.05 * their_peak


def available_gigabytes() -> float:
    """Return the memory that a test may take, where the system tells."""
    return (memory_left() or float("inf")) / 2**30


def pipelines(model: Path) -> tuple[Any, Any]:
    """Return diffusers' prior and decoder pipelines on a model folder, in float32."""
    pytest.importorskip("diffusers")
    from diffusers import DDPMWuerstchenScheduler
    from diffusers.pipelines.deprecated.wuerstchen.modeling_paella_vq_model import PaellaVQModel
    from diffusers.pipelines.deprecated.wuerstchen.modeling_wuerstchen_diffnext import (
        WuerstchenDiffNeXt,
    )
    from diffusers.pipelines.deprecated.wuerstchen.modeling_wuerstchen_prior import WuerstchenPrior
    from diffusers.pipelines.deprecated.wuerstchen.pipeline_wuerstchen import (
        WuerstchenDecoderPipeline,
    )
    from diffusers.pipelines.deprecated.wuerstchen.pipeline_wuerstchen_prior import (
        WuerstchenPriorPipeline,
    )
    from transformers import AutoTokenizer, CLIPTextModel

    def shared(folder: Path) -> dict[str, Any]:
        return {
            "tokenizer": AutoTokenizer.from_pretrained(folder / "tokenizer"),
            "text_encoder": CLIPTextModel.from_pretrained(
                folder / "text_encoder", dtype=torch.float32
            ).eval(),
            "scheduler": DDPMWuerstchenScheduler.from_pretrained(folder / "scheduler"),
        }

    first, second = model / "wuerstchen-prior", model / "wuerstchen"
    prior = WuerstchenPriorPipeline(
        prior=WuerstchenPrior.from_pretrained(first / "prior").eval(), **shared(first)
    )
    decoder = WuerstchenDecoderPipeline(
        decoder=WuerstchenDiffNeXt.from_pretrained(second / "decoder").eval(),
        vqgan=PaellaVQModel.from_pretrained(second / "vqgan").eval(),
        **shared(second),
    )
    for pipe in (prior, decoder):
        pipe.set_progress_bar_config(disable=True)
    return prior, decoder


def paint_with(
    pipes: tuple[Any, Any], prompt: str, s: Settings, timesteps: list[float] | None
) -> tuple[torch.Tensor, Image]:
    """Return the semantic latent and the picture of diffusers, one generator through both."""
    prior, decoder = pipes
    generator = torch.Generator("cpu").manual_seed(s.seed)
    embeddings = prior(
        prompt,
        width=s.width,
        height=s.height,
        num_inference_steps=s.steps or 60,
        timesteps=timesteps,
        guidance_scale=s.guidance,
        negative_prompt=s.negative,
        generator=generator,
    ).image_embeddings
    image = decoder(
        embeddings,
        prompt,
        num_inference_steps=s.decoder_steps,
        guidance_scale=s.decoder_guidance,
        negative_prompt=s.negative,
        generator=generator,
    ).images[0]
    return embeddings, image

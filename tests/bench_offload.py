"""Whole pictures painted by the pipeline's stages, their weights resident or moved to the device."""

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

from torch import Tensor
from transformers import AutoTokenizer

from wuerstchen import StageA, StageAConfig, StageB, StageBConfig, StageC, StageCConfig
from wuerstchen.checkpoints.sources import MINI
from wuerstchen.placement import Network, Offload, Placement
from wuerstchen.sampling import generators
from wuerstchen.stages import Stages
from wuerstchen.text import TextTower
from wuerstchen.text_encoder import TextEncoder, TextEncoderConfig

from . import test_stage_a, test_stage_b, test_stage_c, test_text_encoder
from .bench_tools import Bench, Row
from .peers import in_dtype, with_weights

Parts = Mapping[str, tuple[type[Any], Any, dict[str, Tensor]]]

# last layer of a network, and what its second half gives where what is seen is the noise: it divides
HEADS = {"stage_c": ("out.1", 0.0), "stage_b": ("clf.1", 4.0)}


def offload(bench: Bench, shapes: Sequence[tuple[int, int]]) -> Iterator[Row]:
    """Yield pictures painted from the prompt to the pixels under each policy.

    Their memory is all that is needed, weights included, beyond those that rest on the CPU.
    """
    parts = full_size(bench)
    for size, n in shapes:
        for policy in get_args(Offload):
            placement = replace(bench.placement, offload=policy)
            row = bench.row("offload", f"painting, offload {policy}", size, n, peer="")
            yield bench.race(row, {"ours": painting(parts, placement, size, n)})
            gc.collect()


def full_size(bench: Bench) -> Parts:
    """Return class, config and random weights of every network, in the precision of the run."""
    kinds: dict[str, tuple[type[Any], Any, Any]] = {
        "prior_text": (TextEncoder, TextEncoderConfig(), test_text_encoder),
        "stage_c": (StageC, StageCConfig(), test_stage_c),
        "decoder_text": (TextEncoder, test_text_encoder.H, test_text_encoder),
        "stage_b": (StageB, StageBConfig(), test_stage_b),
        "stage_a": (StageA, StageAConfig(), test_stage_a),
    }
    parts = {}
    for name, (kind, config, room) in kinds.items():
        weights = room.make_weights(config)
        if name in HEADS:
            calm(weights, *HEADS[name])
        parts[name] = kind, config, in_dtype(weights, bench.dtype)
    return parts


def calm(weights: dict[str, Tensor], head: str, divisor: float) -> None:
    """Have a random network say that noise is about what it sees.

    Else latents grow from step to step, beyond what half precision can hold.

    Args:
        weights: of the network, changed in place.
        head: name of its last layer.
        divisor: what the second half of that layer gives from now on.
    """
    weights[f"{head}.weight"].mul_(1e-3)
    bias = weights[f"{head}.bias"].zero_()
    bias[len(bias) // 2 :] = divisor


def painting(parts: Parts, placement: Placement, size: int, n: int) -> Callable[[], None]:
    """Return what paints; its first call brings the model to where it rests."""
    made: list[Stages] = []

    def paint() -> None:
        if not made:
            made.append(stages(parts, placement))
        (model,), rngs = made, generators(range(n))
        text = model.encode_text(["a large red circle"])
        semantic = model.sample_semantic(text.prior, rngs, (size, size))
        model.decode_pixels(model.sample_vq(semantic, text.decoder, rngs))

    return paint


def stages(parts: Parts, placement: Placement) -> Stages:
    """Return the networks as one model; any vocabulary will do for random weights."""
    networks = {name: settled(*part, placement) for name, part in parts.items()}
    words = AutoTokenizer.from_pretrained(MINI / "wuerstchen-prior" / "tokenizer")
    for name in ("prior_text", "decoder_text"):
        networks[name] = TextTower(networks[name], words, placement)
    return Stages(**networks, compressor_loader=None, placement=placement, progress=False)  # type: ignore[arg-type]


def settled(
    kind: Callable[..., Network], config: Any, weights: dict[str, Tensor], placement: Placement
) -> Network:
    """Return a network of these weights at the place where it rests."""
    return placement.settle(with_weights(kind, config, weights, ops=placement.ops))

"""Named tensors -> which network they are, under the published names.

Two layouts hold the same weights: "diffusers", whose names the networks here have too, and
"original", the authors' training code: one matrix for queries, keys and values, another name for
the codebook.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..compressor import Compressor, CompressorConfig
from ..stage_a import StageA, StageAConfig
from ..stage_b import StageB, StageBConfig
from ..stage_c import StageC, StageCConfig
from ..text_encoder import TextEncoder, TextEncoderConfig

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A network of Würstchen v2, and where it is published.

    `advice` says what to do with it, `signature` are keys that together no other network has, `prefix`
    is what its published keys begin with.
    """

    network: type[nn.Module]
    config: type[Any]
    folder: str
    name: str
    advice: str
    repository: str
    signature: tuple[str, ...]
    prefix: str = ""


KINDS = {
    "stage_a": Kind(
        network=StageA,
        config=StageAConfig,
        folder="vqgan",
        name="Stage A (the VQGAN)",
        advice="it is the VAE of the decoder (folder vqgan of a pipeline)",
        repository="warp-ai/wuerstchen",
        signature=("in_block.1.weight", "out_block.0.weight"),
    ),
    "stage_b": Kind(
        network=StageB,
        config=StageBConfig,
        folder="decoder",
        name="Stage B (the decoder)",
        advice="give it as the decoder",
        repository="warp-ai/wuerstchen",
        signature=("clip_mapper.weight", "embedding.1.weight", "clf.1.weight"),
    ),
    "stage_c": Kind(
        network=StageC,
        config=StageCConfig,
        folder="prior",
        name="Stage C (the prior)",
        advice="give it as the prior",
        repository="warp-ai/wuerstchen-prior",
        signature=("projection.weight", "cond_mapper.0.weight"),
    ),
    "compressor": Kind(
        network=Compressor,
        config=CompressorConfig,
        folder="efficient_net",
        name="the semantic compressor (EfficientNetV2)",
        advice="give it as the compressor",
        repository="warp-ai/EfficientNetEncoder",
        signature=("backbone.0.0.weight", "mapper.0.weight"),
    ),
    "text_encoder": Kind(
        network=TextEncoder,
        config=TextEncoderConfig,
        folder="text_encoder",
        name="a CLIP text tower",
        advice="it belongs into the folder text_encoder of a pipeline",
        repository="warp-ai/wuerstchen-prior for Stage C, warp-ai/wuerstchen for Stage B",
        signature=("embeddings.token_embedding.weight", "embeddings.position_embedding.weight"),
        prefix="text_model.",
    ),
}

PREFIXES = (
    "model.diffusion_model.",
    "diffusion_model.",
    "_orig_mod.",
    "module.",
    "prior.",
    "decoder.",
    "vqgan.",
    "text_model.",
)

# Keys that are left out on purpose, and why.
DROPPED = {"embeddings.position_ids": "the numbers 0 to 76, which need not be kept"}

# What else a file is, by a pattern that one of its keys matches; the first match counts.
OTHER_MODELS = {
    r"lora_prior_unet[_.](down|up)_blocks": "a kohya LoRA for Stable Cascade",
    r"lora_unet_(?!blocks_\d)": "a kohya LoRA for Stable Diffusion",
    r"lora_(prior_)?te\d?[_.]|.*(lora_[AB]\.|lora[._](down|up)\.|\.hada_|\.lokr_)": "a LoRA (it is added "
    "to a prior)",
    r"(.*\.)?clip_(txt|img)_mapper\.": "the prior of Stable Cascade (v3)",
    r"(.*\.)?(clip_txt_pooled_mapper|pixels_mapper|effnet_mapper\.\d)\.": "the decoder of Stable "
    "Cascade (v3)",
    r"(byt5_mapper|in_mapper)\.": "Stage B of Würstchen v1 (Paella)",
    r"(model\.diffusion_model\.)?input_blocks\.": "a Stable Diffusion checkpoint",
    r"(first_stage_model|cond_stage_model|conditioner)\.": "a Stable Diffusion checkpoint",
    r"down_blocks\.\d+\.(attentions|resnets)\.": "a network of Stable Diffusion",
    r"(en|de)coder\.conv_in\.": "a network of Stable Diffusion",
    r"text_model\.": "a CLIP model with more than its text tower",
    r"(transformer\.resblocks|token_embedding)\.": "a CLIP text tower in OpenCLIP's layout",
}


@dataclass(frozen=True, kw_only=True)
class Recognised:
    """What a state dict is; `kind` is None for anything but one of `KINDS`."""

    kind: str | None
    layout: str
    name: str


def recognise(shapes: Shapes) -> Recognised:
    """Return what the tensors of these names and shapes are."""
    prefix = common_prefix(shapes)
    bare = {key.removeprefix(prefix): tuple(shape) for key, shape in shapes.items()}
    other = other_model(bare)
    if other is not None:
        return Recognised(kind=None, layout="", name=other)
    for kind, entry in KINDS.items():
        if all(mark in bare for mark in entry.signature):
            original = any(".attn." in key or "codebook" in key for key in bare)
            return Recognised(
                kind=kind, layout="original" if original else "diffusers", name=entry.name
            )
    return Recognised(kind=None, layout="", name="unknown")


def other_model(shapes: Shapes) -> str | None:
    """Return the name of a network that is not of Würstchen v2; None if it may be."""
    for pattern, name in OTHER_MODELS.items():
        if any(re.match(pattern, key) for key in shapes):
            return name
    # Same keys as in v2; the text tower was CLIP-H, with 1024 features instead of 1280.
    if shapes.get("cond_mapper.0.weight") == (1536, 1024):
        return "the prior of Würstchen v1"
    if (
        "backbone.0.0.weight" in shapes
        and "mapper.1.running_mean" in shapes
        and "mapper.1.weight" not in shapes
    ):
        return "the semantic compressor of Stable Cascade (v3)"
    return None


def common_prefix(keys: Iterable[str]) -> str:
    """Return the known wrappers that all keys start with, "" if there are none."""
    keys, prefix = sorted(keys), ""
    keys = keys[:1] + keys[-1:]  # what these share, all between them do
    while keys:
        more = next((p for p in PREFIXES if all(key.startswith(prefix + p) for key in keys)), None)
        if more is None:
            break
        prefix += more
    return prefix


def published_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under the names of the diffusers layout, whichever they have now.

    Raises:
        ValueError: if two keys mean the same tensor, or a joined one cannot be split.
    """
    prefix = common_prefix(tensors)
    renamed: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        key = key.removeprefix(prefix)
        if key in DROPPED:
            continue
        for name, share in published_name(key, tensor).items():
            if name in renamed:
                raise ValueError(f"{name} is there twice, also as {key}")
            renamed[name] = share
    return renamed


def published_name(key: str, tensor: Tensor) -> dict[str, Tensor]:
    """Return one tensor under its published name, or the three that the authors joined in it.

    Raises:
        ValueError: if they do not part evenly.
    """
    block, joined, end = key.partition(".attention.attn.in_proj_")
    if joined:
        names = [f"{block}.attention.{name}.{end}" for name in ("to_q", "to_k", "to_v")]
        if tensor.dim() == 0 or tensor.shape[0] % 3:
            raise ValueError(f"{key} has no three equal parts, its shape is {list(tensor.shape)}")
        return dict(zip(names, tensor.chunk(3), strict=True))
    key = key.replace("vquantizer.codebook.", "vquantizer.embedding.")
    return {key.replace(".attention.attn.out_proj.", ".attention.to_out.0."): tensor}


def wrong_kind(place: str, shapes: Shapes, kind: str | None) -> str:
    """Return the message for a file that is not the network `kind`, or none known here."""
    what = recognise(shapes)
    wanted = KINDS[kind] if kind else None
    expected = wanted.name if wanted else "a network of Würstchen v2"
    if what.kind is not None:
        advice = KINDS[what.kind].advice
    elif wanted:
        advice = f"the published one is at {wanted.repository}"
    else:
        advice = "the published ones are at warp-ai/wuerstchen and warp-ai/wuerstchen-prior"
    prefix = common_prefix(shapes)
    lacking = [mark for mark in wanted.signature if prefix + mark not in shapes] if wanted else []
    missing = f"no {lacking[0]} but " if lacking else ""
    keys = shortened(list(shapes)) or "no tensors"
    name = "not a network known here" if what.name == "unknown" else what.name
    return f"{place}: expected {expected}, this is {name} ({missing}{keys}); {advice}"


def compare(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """Return in words how the given tensors do not fit, "" if they all do."""
    missing = [key for key in wanted if key not in given]
    unexpected = [key for key in given if key not in wanted]
    shared = [key for key in wanted if key in given]
    of_other_shape = [
        f"{key} {list(given[key].shape)} instead of {list(wanted[key].shape)}"
        for key in shared
        if given[key].shape != wanted[key].shape
    ]
    mistyped = [
        f"{key} {given[key].dtype}"
        for key in shared
        if given[key].is_floating_point() != wanted[key].is_floating_point()
    ]
    groups = {
        "missing": missing,
        "unexpected": unexpected,
        "of another shape": of_other_shape,
        "of a wrong type": mistyped,
    }
    return "; ".join(
        f"{len(keys)} keys {word} ({shortened(keys)})" for word, keys in groups.items() if keys
    )


def shortened(names: list[str]) -> str:
    """Return the first three names."""
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")

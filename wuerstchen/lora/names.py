"""Names of layers in LoRA files -> layers of Stage C and of its text tower.

Files name parts and layers in many ways, alike for both networks:

    prior.blocks.2.attention.processor.to_q_lora.down.weight    diffusers until 0.24
    prior.blocks.2.attention.to_q.lora_A.weight                 PEFT; with any of `PREFIXES` or none
    lora_unet_blocks_2_attention_to_q.lora_down.weight          kohya
    text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight
    lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight
    lora_prior_unet.blocks.2.attention.to_q.lora_down.weight    OneTrainer, its parts with _ or .

Names of the authors' layout are known too, with queries, keys and values joined in one matrix.
"""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import nn

PRIOR, TEXT = "prior", "text_encoder"

# What comes before a layer's name, also one after the other. LoRAs for Stable Cascade may have the
# same: its text tower is of the same sizes as ours, its prior has other blocks.
PREFIXES = (
    "base_model.model.",
    "model.diffusion_model.",
    "diffusion_model.",
    "module.",
    "prior.",
    "unet.",
    "text_encoder.",
    "text_model.",
    "lora_unet_",
    "lora_te_",
    "lora_te1_",
    "lora_prior_unet_",
    "lora_prior_unet.",
    "lora_prior_prior_",
    "lora_prior_te_",
    "lora_prior_te.",
    "text_model_",
)
MATRIX = re.compile(
    r"(?P<layer>.+?)(?:[._]lora|\.lora_linear_layer)[._](?P<role>A|B|down|up)(?:\.\w+)?\.weight"
)
ALPHA = re.compile(
    r"(?P<layer>.+?)(?:(?:[._]lora|\.lora_linear_layer)(?:[._](?:A|B|down|up)\.weight)?)?\.alpha"
)
ROLES = {"A": "down", "B": "up"}
OTHER_NAMES = (
    (".attention.to_out.0", ".attention.to_out"),
    (".attention.to_out.0", ".attention.attn.out_proj"),
    (".self_attn.q_proj", ".self_attn.to_q"),
    (".self_attn.k_proj", ".self_attn.to_k"),
    (".self_attn.v_proj", ".self_attn.to_v"),
    (".self_attn.out_proj", ".self_attn.to_out"),
)
JOINED, PARTS_OF_JOINED = (".attn", ".attn.in_proj"), (".to_q", ".to_k", ".to_v")

# What else a file is, by a pattern that one of its keys matches; the first match counts.
FAMILIES = {
    r".*(hada_|lokr_|oft_|dora_scale|lora_magnitude_vector|lora_mid)": "a LoHa, LoKr or DoRA, "
    "whose updates are no plain product",
    r".*\.(diff|diff_b)$": "a LoRA with differences of whole weights or biases beside, which "
    "ComfyUI's own LoraLoader reads",
    r"bundle_emb\.": "a LoRA with an embedding that OneTrainer put beside it",
    r".*(down|up)_blocks[._]\d+[._]\d+[._](attention|channelwise|depthwise|(kv_)?mapper)[._]": "a "
    "LoRA for Stable Cascade",
    r".*([a-z]_blocks?[._].*(attentions|resnets)|(in|out)put_blocks|middle_block)": "a LoRA for "
    "Stable Diffusion",
    r".*(transformer|double|single|joint)_blocks": "a LoRA for a diffusion transformer",
}


class Target(NamedTuple):
    """A layer of a network: `part` is `PRIOR` or `TEXT`, `layer` the module's own name there."""

    part: str
    layer: str


Shapes = Mapping[Target, tuple[int, ...]]


def shapes_of(stage_c: "nn.Module | None", text_tower: "nn.Module | None") -> Shapes:
    """Return the shapes of the weights that a LoRA may update."""
    return {
        Target(part, key.removesuffix(".weight")): tuple(tensor.shape)
        for part, network in ((PRIOR, stage_c), (TEXT, text_tower))
        if network is not None
        for key, tensor in network.state_dict().items()
        if key.endswith(".weight") and tensor.ndim > 1
    }


def addresses(shapes: Shapes) -> dict[str, tuple[Target, ...]]:
    """Return which layers each name stands for that a file may use, without its prefix."""
    names: dict[str, tuple[Target, ...]] = {}
    for target in shapes:
        own = target.layer.removeprefix("text_model.")
        others = [own.removesuffix(end) + other for end, other in OTHER_NAMES if own.endswith(end)]
        names |= dict.fromkeys((own, *others), (target,))
        block, queries, _ = target.layer.rpartition(".to_q")
        if queries:
            parts = tuple(Target(target.part, block + end) for end in PARTS_OF_JOINED)
            names |= dict.fromkeys((block + end for end in JOINED), parts)
    return names | {name.replace(".", "_"): targets for name, targets in names.items()}


def bare(name: str) -> str:
    """Return a layer's name in a file without what comes before it."""
    while prefix := next((p for p in PREFIXES if name.startswith(p)), None):
        name = name.removeprefix(prefix)
    return name.replace(".processor.", ".")


def family_of(keys: Sequence[str]) -> str:
    """Return what kind of LoRA has such keys, "" if none that is known."""
    fitting = (name for kind, name in FAMILIES.items() if any(re.match(kind, key) for key in keys))
    return next(fitting, "")

"""Networks known by the names of their tensors: the published ones, and those of other models."""

import json
import re
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from wuerstchen.checkpoints.info import describe
from wuerstchen.checkpoints.recognise import KINDS, OTHER_MODELS, Recognised, recognise

from .checkpoint_files import SMALLEST, refused, smallest_state

GOLDEN = Path(__file__).parents[1] / "golden"
PUBLISHED_KEYS = {
    "stage_a": "vqgan",
    "stage_b": "decoder",
    "stage_c": "prior",
    "compressor": "effnet",
}


@pytest.mark.parametrize("kind", PUBLISHED_KEYS)
def test_published_networks_have_exactly_the_published_keys_and_shapes(kind: str) -> None:
    lines = (GOLDEN / f"keys_{PUBLISHED_KEYS[kind]}.txt").read_text().splitlines()
    published = {
        key: (json.loads(shape), dtype) for key, shape, dtype in (x.split("\t") for x in lines)
    }
    with torch.device("meta"):
        state = KINDS[kind].network().state_dict()
    assert {key: (list(t.shape), str(t.dtype)) for key, t in state.items()} == published
    what = recognise({key: tuple(shape) for key, (shape, _) in published.items()})
    assert what == Recognised(kind=kind, layout="diffusers", name=KINDS[kind].name)


@pytest.mark.parametrize(("kind", "wanted"), list(permutations(SMALLEST, 2)))
def test_network_of_another_kind_is_named(tmp_path: Path, kind: str, wanted: str) -> None:
    save_file(smallest_state(kind), tmp_path / "a.safetensors")
    text = refused(tmp_path / "a.safetensors", wanted)
    assert f"expected {KINDS[wanted].name}, this is {KINDS[kind].name}" in text
    assert text.endswith(KINDS[kind].advice)


def test_stage_b_given_as_prior_says_where_it_belongs(tmp_path: Path) -> None:
    save_file(smallest_state("stage_b"), tmp_path / "a.safetensors")
    text = refused(tmp_path / "a.safetensors")
    assert "this is Stage B (the decoder) (no projection.weight but " in text
    assert text.endswith("; give it as the decoder")


FOREIGN = {  # by keys as a message lists them
    "prior.blocks.2.attention.processor.to_q_lora.down.weight": "a LoRA",
    "prior.blocks.2.attention.to_q.lora_A.weight": "a LoRA",
    "prior.blocks.95.attention.to_out.0.lora_B.weight": "a LoRA",
    "base_model.model.blocks.2.attention.to_k.lora_A.weight": "a LoRA",
    "blocks.2.attention.to_k.lora_A.default.weight": "a LoRA",
    "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight": "a LoRA",
    "lora_prior_unet_down_blocks_0_2_attention_to_q.lora_down.weight": "a kohya LoRA for Stable Cascade",
    "lora_prior_te_text_model_encoder_layers_0.lora_up.weight": "a LoRA",
    "lora_unet_blocks_2_attention_to_q.lora_down.weight": "a LoRA",
    "lora_unet_down_blocks_0_attentions_0.lora_down.weight": "a kohya LoRA for Stable Diffusion",
    "lora_te1_text_model_encoder_layers_0.alpha": "a LoRA",
    "lycoris_blocks_2_attention_to_q.hada_w1_a": "a LoRA",
    "lycoris_blocks_2_attention_to_q.lokr_w1": "a LoRA",
    "clip_txt_mapper.weight": "the prior of Stable Cascade",
    "model.diffusion_model.clip_img_mapper.bias": "the prior of Stable Cascade",
    "effnet_mapper.0.weight": "the decoder of Stable Cascade",
    "pixels_mapper.0.weight": "the decoder of Stable Cascade",
    "decoder.clip_txt_pooled_mapper.weight": "the decoder of Stable Cascade",
    "byt5_mapper.weight": "Stage B of Würstchen v1",
    "in_mapper.0.weight": "Stage B of Würstchen v1",
    "model.diffusion_model.input_blocks.0.0.weight": "a Stable Diffusion checkpoint",
    "first_stage_model.encoder.conv_in.weight": "a Stable Diffusion checkpoint",
    "cond_stage_model.transformer.weight": "a Stable Diffusion checkpoint",
    "conditioner.embedders.0.weight": "a Stable Diffusion checkpoint",
    "down_blocks.0.attentions.0.norm.weight": "a network of Stable Diffusion",
    "down_blocks.0.resnets.0.norm1.weight": "a network of Stable Diffusion",
    "encoder.conv_in.weight": "a network of Stable Diffusion",
    "decoder.conv_in.weight, encoder.conv_out.weight": "a network of Stable Diffusion",
    "text_model.final_layer_norm.bias, visual_projection.weight": "a CLIP model with more than its "
    "text tower",
    "transformer.resblocks.0.ln_1.weight": "a CLIP text tower in OpenCLIP's layout",
    "token_embedding.weight": "a CLIP text tower in OpenCLIP's layout",
    "something.else": "not a network known here",
}


@pytest.mark.parametrize("key", FOREIGN)
def test_foreign_network_is_named(tmp_path: Path, key: str) -> None:
    save_file({name: torch.ones(1) for name in key.split(", ")}, tmp_path / "a.safetensors")
    text = refused(tmp_path / "a.safetensors")
    assert f"expected Stage C (the prior), this is {FOREIGN[key]}" in text
    assert f"(no projection.weight but {key})" in text
    assert describe(tmp_path / "a.safetensors")[0].kind is None


@pytest.mark.parametrize("pattern", OTHER_MODELS)
def test_every_pattern_of_foreign_keys_is_the_first_to_fit_one_of_these(pattern: str) -> None:
    assert pattern in [next((p for p in OTHER_MODELS if re.match(p, key)), "") for key in FOREIGN]


def test_v1_prior_and_cascade_compressor_are_told_by_shapes() -> None:
    shapes: dict[str, tuple[int, ...]] = {
        "projection.weight": (1536, 16, 1, 1),
        "cond_mapper.0.weight": (1536, 1024),
    }
    assert recognise(shapes).name == "the prior of Würstchen v1"
    shapes["cond_mapper.0.weight"] = (1536, 1280)
    assert recognise(shapes).kind == "stage_c"
    shapes = {
        "backbone.0.0.weight": (24, 3, 3, 3),
        "mapper.0.weight": (16, 1280, 1, 1),
        "mapper.1.running_mean": (16,),
    }
    assert recognise(shapes).name == "the semantic compressor of Stable Cascade (v3)"


@pytest.mark.peer
def test_a_network_of_stable_cascade_is_named() -> None:
    diffusers = pytest.importorskip("diffusers")
    sizes: dict[str, Any] = {
        "timestep_ratio_embedding_dim": 16,
        "patch_size": 1,
        "conditioning_dim": 32,
        "block_out_channels": (32,),
        "num_attention_heads": (2,),
        "down_num_layers_per_block": (1,),
        "up_num_layers_per_block": (1,),
        "down_blocks_repeat_mappers": (1,),
        "up_blocks_repeat_mappers": (1,),
        "block_types_per_layer": (("SDCascadeResBlock",),),
        "clip_text_pooled_in_channels": 16,
    }
    with torch.device("meta"):
        prior = diffusers.StableCascadeUNet(
            **sizes, clip_text_in_channels=16, clip_image_in_channels=16
        )
        decoder = diffusers.StableCascadeUNet(
            **sizes, effnet_in_channels=16, pixel_mapper_in_channels=3
        )
    assert recognise({k: tuple(t.shape) for k, t in prior.state_dict().items()}).name.startswith(
        "the prior of Stable"
    )
    name = recognise({k: tuple(t.shape) for k, t in decoder.state_dict().items()}).name
    assert name.startswith("the decoder of Stable Cascade")

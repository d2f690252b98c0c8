"""LoRA files that are refused in one line, which names what they are, and leaves every weight as it was."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from wuerstchen import CheckpointError, Wuerstchen
from wuerstchen.lora.merging import Loras

from .lora_tensors import (
    ATTENTION,
    EVERYWHERE,
    SELF_ATTENTION,
    copies,
    draw,
    kohya,
    named,
    peft,
    random_pair,
    unchanged,
    written,
)

OTHER_MODELS = {
    "lora_prior_unet_down_blocks_0_2_attention_to_q": "Stable Cascade",
    "lora_prior_unet.up_blocks.0.2.attention.to_q": "Stable Cascade",
    "prior.down_blocks.0.2.attention.to_q": "Stable Cascade",
    "lora_unet_up_blocks_1_3_channelwise_0": "Stable Cascade",
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q": "Stable Diffusion",
    "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": "Stable Diffusion",
    "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q": "Stable Diffusion",
    "transformer.transformer_blocks.0.attn.to_q": "a diffusion transformer",
    "lora_unet_double_blocks_0_img_attn_qkv": "a diffusion transformer",
}


def refused(loras: Loras, source: str | Path) -> str:
    """Return the one line of the refusal, after which every weight is as before."""
    before = copies(loras)
    with pytest.raises(CheckpointError) as caught:
        loras.add(source)
    text = str(caught.value)
    assert text.startswith(str(source))
    assert "\n" not in text
    assert len(text) < 700
    assert unchanged(loras, before)
    assert not loras.added
    return text


def refused_tensors(loras: Loras, folder: Path, tensors: dict[str, Tensor]) -> str:
    text = refused(loras, written(folder / "lora.safetensors", tensors))
    assert "expected a LoRA for Würstchen v2's Stage C (the prior) and its text tower" in text
    return text


def test_missing_damaged_and_empty_sources_are_refused(loras: Loras, tmp_path: Path) -> None:
    assert "found nothing at this path" in refused(loras, tmp_path / "no.safetensors")
    assert "an empty folder" in refused(loras, tmp_path)
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0")
    assert "download it again" in refused(loras, tmp_path / "cut.safetensors")
    assert "found cut.safetensors; give the file itself" in refused(loras, tmp_path)


def test_a_pickle_that_would_run_code_is_refused(loras: Loras, tmp_path: Path) -> None:
    torch.save({"a": nn.Linear(1, 1)}, tmp_path / "lora.bin")
    assert "could run code" in refused(loras, tmp_path / "lora.bin")


@pytest.mark.parametrize(("stem", "name"), OTHER_MODELS.items())
def test_a_lora_of_another_model_is_named(
    loras: Loras, tmp_path: Path, stem: str, name: str
) -> None:
    text = refused_tensors(loras, tmp_path, random_pair(stem))
    assert f"this is a LoRA for {name} (2 of 2 keys fit no layer: {stem}" in text
    assert "take one that was trained on this prior" in text


def test_a_lora_of_stable_diffusion_is_named_even_where_its_text_tower_would_fit(
    loras: Loras, tmp_path: Path
) -> None:
    stem = "lora_unet_mid_block_attentions_0_proj_in"
    fitting = named(draw(loras, SELF_ATTENTION), kohya("", "lora_te_text_model_"))
    text = refused_tensors(loras, tmp_path, fitting | random_pair(stem))
    assert "this is a LoRA for Stable Diffusion (2 of 18 keys fit no layer" in text


def test_what_holds_no_lora_is_named(loras: Loras, tmp_path: Path, tiny: Path) -> None:
    prior = tiny / "wuerstchen-prior" / "prior" / "diffusion_pytorch_model.safetensors"
    assert "this is Stage C (the prior)" in refused(loras, prior)
    text = refused_tensors(loras, tmp_path, {"something": torch.ones(2)})
    assert "this is no LoRA known here (1 of 1 keys fit no layer: something)" in text
    assert "no LoRA known here (0 of 0 keys" in refused_tensors(loras, tmp_path, {})


@pytest.mark.parametrize("key", ["hada_w1_a", "lokr_w1", "dora_scale", "lora_mid.weight"])
def test_an_update_that_is_no_plain_product_is_refused(
    loras: Loras, tmp_path: Path, key: str
) -> None:
    stem = "lora_unet_blocks_2_attention_to_q"
    text = refused_tensors(loras, tmp_path, random_pair(stem) | {f"{stem}.{key}": torch.ones(2, 2)})
    assert "this is a LoHa, LoKr or DoRA" in text
    assert f"1 of 3 keys fit no layer: {stem}.{key}" in text


@pytest.mark.parametrize(
    "stranger",
    [
        "prior.blocks.8.attention.to_q.lora_A.weight",
        "prior.blocks.2.attention.to_q.lora_B.bias",
        "text_encoder_2.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight",
        "prior.blocks.2.attention.to_q.alpha.beta",
        "blocks.2.attention.to_q.base_layer.weight",
    ],
)
def test_keys_that_fit_no_layer_are_listed(loras: Loras, tmp_path: Path, stranger: str) -> None:
    tensors = named(draw(loras, ATTENTION), peft) | {stranger: torch.ones(2, 32)}
    text = refused_tensors(loras, tmp_path, tensors)
    assert f"found one for other layers (1 of 17 keys fit no layer: {stranger})" in text


def test_a_text_part_needs_a_text_tower(model: Wuerstchen, tmp_path: Path) -> None:
    tensors = named(draw(Loras(model.stage_c, model.prior_text.network), EVERYWHERE), peft)
    text = refused_tensors(Loras(model.stage_c), tmp_path, tensors)
    assert "18 of 46 keys fit no layer: text_encoder.text_model.encoder" in text


def test_two_updates_for_one_layer_are_refused(loras: Loras, tmp_path: Path) -> None:
    stem = "prior.blocks.2.attention"
    again = random_pair("unet.blocks.2.attention.to_k")
    joined = random_pair(f"{stem}.attn.in_proj", rows=96)
    for other in (again, joined):
        text = refused_tensors(loras, tmp_path, random_pair(f"{stem}.to_k") | other)
        assert "found more than one update for the same layer" in text
        assert "save each LoRA as a file of its own" in text


@pytest.mark.parametrize(("left", "missing"), [("A", "up"), ("B", "down")])
def test_a_matrix_without_its_other_is_refused(
    loras: Loras, tmp_path: Path, left: str, missing: str
) -> None:
    tensors = named(draw(loras, ATTENTION[:2]), peft)
    tensors.pop(f"prior.blocks.2.attention.to_q.lora_{'AB'.replace(left, '')}.weight")
    text = refused_tensors(loras, tmp_path, tensors)
    assert f"found 1 layers without {missing} (prior.blocks.2.attention.to_q);" in text


@pytest.mark.parametrize(
    ("up", "down"),
    [
        ((31, 2), (2, 32)),
        ((32, 2), (2, 33)),
        ((32, 3), (2, 32)),
        ((2, 32), (32, 2)),
        ((32, 0), (0, 32)),
        ((32,), (32,)),
        ((), ()),
    ],
)
def test_wrong_shapes_are_refused(
    loras: Loras, tmp_path: Path, up: tuple[int, ...], down: tuple[int, ...]
) -> None:
    stem = "prior.blocks.2.attention.to_q"
    tensors = {f"{stem}.lora_B.weight": torch.ones(up), f"{stem}.lora_A.weight": torch.ones(down)}
    text = refused_tensors(loras, tmp_path, tensors)
    wrong = f"{stem} up {list(up)} and down {list(down)} for 32 rows, 32 columns"
    assert f"found 1 layers of another shape ({wrong});" in text


@pytest.mark.parametrize("role", ["lora_up.weight", "lora_down.weight", "alpha"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(
    loras: Loras, tmp_path: Path, role: str, value: float
) -> None:
    stem = "prior.blocks.2.attention.to_q"
    tensors = random_pair(stem) | {f"{stem}.alpha": torch.tensor(1.0)}
    tensors[f"{stem}.{role}"].view(-1)[-1] = value
    text = refused_tensors(loras, tmp_path, tensors)
    assert f"1 layers with other than finite floats ({stem})" in text


def test_whole_numbers_are_no_weights(loras: Loras, tmp_path: Path) -> None:
    stem = "prior.blocks.2.attention.to_q"
    tensors = {key: tensor.to(torch.int8) for key, tensor in random_pair(stem).items()}
    text = refused_tensors(loras, tmp_path, tensors)
    assert f"1 layers with other than finite floats ({stem})" in text


def test_an_alpha_alone_is_refused(loras: Loras, tmp_path: Path) -> None:
    tensors = named(draw(loras, ATTENTION[:1]), peft)
    tensors["prior.blocks.2.attention.to_k.alpha"] = torch.tensor(1.0)
    text = refused_tensors(loras, tmp_path, tensors)
    assert "1 layers without up and down (prior.blocks.2.attention.to_k)" in text


def test_an_alpha_of_several_numbers_is_refused(loras: Loras, tmp_path: Path) -> None:
    stem = "prior.blocks.2.attention.to_q"
    text = refused_tensors(loras, tmp_path, random_pair(stem) | {f"{stem}.alpha": torch.ones(2)})
    assert f"1 layers of another shape ({stem} alpha [2])" in text


@pytest.mark.parametrize(
    ("layer", "alpha", "fault"),
    [
        ("to_q", 10**400, "with other than finite floats"),
        ("to_q", torch.tensor(1j), "with other than finite floats"),
        ("to_q", float("nan"), "with other than finite floats"),
        ("to_k", 1, "without up and down"),
        ("to_x", 1, "1 of 3 keys fit no layer: prior.blocks.2.attention.to_x.alpha"),
    ],
)
def test_an_alpha_saved_as_a_plain_number_is_refused_as_one_in_a_tensor(
    loras: Loras, tmp_path: Path, layer: str, alpha: Any, fault: str
) -> None:
    stem, path = "prior.blocks.2.attention", tmp_path / "lora.bin"
    torch.save(random_pair(f"{stem}.to_q") | {f"{stem}.{layer}.alpha": alpha}, path)
    assert fault in refused(loras, path)


@pytest.mark.parametrize(
    "entries",
    [
        {"lora_alpha": "many"},
        {"lora_alpha": [1]},
        {"alpha_pattern": {"(": 1}},
        {"alpha_pattern": 3},
        {"lora_alpha": 1e999},
        {"lora_alpha": 10**400},
        {"alpha_pattern": {"blocks.2.attention.to_q": 10**400}},
        {"alpha_pattern": {"a{99999999999999}": 1}},
        {"alpha_pattern": {"(" * 20_000: 1}},
        {"alpha_pattern": {"(([a-z._0-9]+)+)+!": 1}},
        {"alpha_pattern": {".*" * 20 + "!": 1}},
        {"alpha_pattern": {"(.|.)" * 20 + "!": 1}},
        {"alpha_pattern": {"(?#[)" + "(.|.)" * 20 + r"!\]": 1}},
        {"alpha_pattern": {f"({'.|' * 40}.)" * 4 + "!": 1}},
        {"alpha_pattern": {"a" * 600: 1}},
    ],
)
def test_a_config_without_a_usable_alpha_is_refused(
    loras: Loras, tmp_path: Path, entries: dict[str, Any]
) -> None:
    metadata = {"lora_adapter_metadata": json.dumps(entries)}
    tensors = random_pair("prior.blocks.2.attention.to_q")
    path = written(tmp_path / "lora.safetensors", tensors, metadata)
    assert "expected PEFT's adapter config with numbers for lora_alpha" in refused(loras, path)

"""What cannot be loaded is refused in one line that says what it is and what to do."""

import json
import os
import re
import shutil
import signal
import tarfile
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from wuerstchen.checkpoints import KINDS, CheckpointError, load_network, recognise
from wuerstchen.configs import blocks, level_layouts
from wuerstchen.converting import convert
from wuerstchen.info import describe
from wuerstchen.placement import Placement
from wuerstchen.recognise import OTHER_MODELS
from wuerstchen.sources import native_size
from wuerstchen.stage_a import StageAConfig
from wuerstchen.stage_b import StageBConfig
from wuerstchen.stage_c import StageCConfig
from wuerstchen.towers import load_text_tower, load_tokenizer
from wuerstchen.training.mini import tokenizer

from .conftest import WORDS

PLACEMENT = Placement()
TINY: dict[str, Any] = {
    "stage_a": StageAConfig(bottleneck_blocks=1, embed_dim=16, num_vq_embeddings=32),
    "stage_b": StageBConfig(
        c_cond=32,
        c_hidden=(64,),
        nhead=(1,),
        blocks=(1,),
        level_config=("CTA",),
        inject_effnet=(True,),
    ),
    "stage_c": StageCConfig(c=64, c_cond=32, depth=1, nhead=1),
}


def state(kind: str = "stage_c") -> dict[str, Tensor]:
    return KINDS[kind].network(TINY[kind]).state_dict()


def prior_file(folder: Path, changes: dict[str, Tensor] | None = None, without: str = "") -> Path:
    """Write a prior with some tensors changed, added or left out."""
    tensors = {key: tensor for key, tensor in (state() | (changes or {})).items() if key != without}
    save_file(tensors, folder / "prior.safetensors")
    return folder / "prior.safetensors"


def message(call: Callable[..., Any], *arguments: Any) -> str:
    """Return the one line of the `CheckpointError` that a call ends in."""
    with pytest.raises(CheckpointError) as caught:
        call(*arguments)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 700
    return text


def refused(source: str | Path, kind: str = "stage_c") -> str:
    text = message(load_network, source, kind, PLACEMENT)
    assert text.startswith(str(source))
    return text


def test_missing_path_is_refused(tmp_path: Path) -> None:
    for source in (
        tmp_path / "no.safetensors",
        "models/no.safetensors",
        str(tmp_path / "x"),
        Path("warp-ai/none"),
    ):
        assert "found nothing at this path" in refused(source)
        assert "found nothing at this path" in message(describe, source)


def test_empty_file_is_refused(tmp_path: Path) -> None:
    for name in ("a.safetensors", "a.pt"):
        (tmp_path / name).touch()
        assert "found an empty file; download it again" in refused(tmp_path / name)


@pytest.mark.parametrize("share", [0.001, 0.1, 0.9, 0.999])
@pytest.mark.parametrize("name", ["a.safetensors", "a.pt", "old.pt"])
def test_file_that_is_cut_short_is_refused(tmp_path: Path, name: str, share: float) -> None:
    file = tmp_path / name
    if name == "a.safetensors":
        save_file(state(), file)
    else:
        torch.save({"state_dict": state()}, file, _use_new_zipfile_serialization=name == "a.pt")
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    text = refused(file)
    assert "damaged" in text
    assert "cut short" in text
    assert text.endswith("download it again")


@pytest.mark.parametrize(
    "content", [b"version https://git-lfs.github.com/spec/v1\n", b"<html>404</html>", bytes(99)]
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".bin"])
def test_file_of_something_else_is_refused(tmp_path: Path, content: bytes, suffix: str) -> None:
    file = tmp_path / f"a{suffix}"
    file.write_bytes(content)
    assert "damaged" in refused(file)


def test_file_of_an_unknown_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    assert "expected one of .safetensors, .sft, .bin, .pt, .pth, .ckpt, found '.gguf'" in refused(
        tmp_path / "a.gguf"
    )


def test_safetensors_of_an_unknown_dtype_is_refused(tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "Q9", "shape": [1], "data_offsets": [0, 1]}}).encode()
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"0")
    assert "unknown dtype" in refused(tmp_path / "a.safetensors")


class Code:
    """Pickles as a call that makes a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("old_format", [False, True])
def test_pickle_that_would_run_code_is_refused_and_not_run(
    tmp_path: Path, old_format: bool
) -> None:
    content = {"state_dict": state(), "extra": Code(tmp_path / "trace")}
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=not old_format)
    text = refused(tmp_path / "a.pt")
    assert "refused, since it could run code" in text
    assert "mkdir" in text
    assert "safetensors" in text
    assert not (tmp_path / "trace").exists()


def test_whole_pickled_network_is_refused(tmp_path: Path) -> None:
    torch.save(KINDS["stage_c"].network(TINY["stage_c"]), tmp_path / "a.pt")
    assert "refused, since it could run code" in refused(tmp_path / "a.pt")


@pytest.mark.parametrize("content", [[1, 2], torch.ones(2), {"epoch": 3}, {}])
def test_pickle_without_a_state_dict_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "a.pt")
    assert "expected " in refused(tmp_path / "a.pt")


def test_folder_without_index_or_config_is_refused(tmp_path: Path) -> None:
    assert "found an empty folder" in refused(tmp_path)
    (tmp_path / "readme.md").touch()
    text = refused(tmp_path)
    assert (
        "expected model_index.json, or config.json with diffusion_pytorch_model.safetensors" in text
    )
    assert "found readme.md" in text
    save_file(state(), tmp_path / "diffusion_pytorch_model.safetensors")
    assert "expected config.json beside" in refused(tmp_path)


def test_pipeline_without_the_component_says_which_it_has(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    (tmp_path / "vqgan").mkdir()
    save_file(state("stage_a"), tmp_path / "vqgan" / "diffusion_pytorch_model.safetensors")
    assert "expected weights in its folder prior, found vqgan" in refused(tmp_path)


def test_folder_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").mkdir()
    assert "found an empty folder" in refused(tmp_path / "a.safetensors")
    assert "expected a file name" in message(
        convert, prior_file(tmp_path), tmp_path / "a.safetensors"
    )


@pytest.mark.parametrize("kind", TINY)
@pytest.mark.parametrize("wanted", TINY)
def test_network_of_another_kind_is_named(tmp_path: Path, kind: str, wanted: str) -> None:
    if kind != wanted:
        save_file(state(kind), tmp_path / "a.safetensors")
        text = refused(tmp_path / "a.safetensors", wanted)
        assert f"expected {KINDS[wanted].name}, this is {KINDS[kind].name}" in text
        assert text.endswith(KINDS[kind].advice)


def test_stage_b_given_as_prior_says_where_it_belongs(tmp_path: Path) -> None:
    save_file(state("stage_b"), tmp_path / "a.safetensors")
    text = refused(tmp_path / "a.safetensors")
    assert "this is Stage B (the decoder) (no projection.weight but " in text
    assert text.endswith("; give it as the decoder")


def test_an_archive_of_old_is_refused_unread(tmp_path: Path) -> None:
    (tmp_path / "sys_info").write_bytes(b"code")
    with tarfile.open(tmp_path / "a.pt", "w") as archive:
        archive.add(tmp_path / "sys_info")
    text = message(load_network, tmp_path / "a.pt", "stage_c", PLACEMENT)
    assert "refused, since reading it could run code" in text


def test_a_torchscript_program_is_refused_unread(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "a.pt")
    text = message(load_network, tmp_path / "a.pt", "stage_c", PLACEMENT)
    assert "found a TorchScript program; refused, since reading it could run code" in text


def test_an_archive_whose_list_of_entries_is_damaged_is_refused(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "a.pt")
    data = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(data.replace(b"PK\x01\x02", bytes(4), 1))
    text = message(load_network, tmp_path / "a.pt", "stage_c", PLACEMENT)
    assert "found one that is damaged or cut short" in text


def test_zeros_that_a_download_left_are_no_archive(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(bytes(2**16))
    text = message(load_network, tmp_path / "a.pt", "stage_c", PLACEMENT)
    assert "found one that is damaged or cut short" in text


def test_nested_json_is_refused(tmp_path: Path) -> None:
    path = prior_file(tmp_path).rename(tmp_path / "diffusion_pytorch_model.safetensors")
    (tmp_path / "config.json").write_text("[" * 200_000)
    assert "expected a JSON object, found " in message(load_network, path, "stage_c", PLACEMENT)


@pytest.mark.parametrize("written", [torch.randn(3, 2), torch.tensor([300, -1]), torch.tensor(7)])
def test_sizes_among_the_tensors_that_are_no_text_are_refused(
    tmp_path: Path, written: Tensor
) -> None:
    path = prior_file(tmp_path, {"wuerstchen.config": written})
    assert "expected a JSON object, found " in message(load_network, path, "stage_c", PLACEMENT)


def test_numbers_beyond_the_precision_are_not_written(tmp_path: Path) -> None:
    source = prior_file(tmp_path, {"projection.bias": torch.full((64,), 1e6)})
    text = message(convert, source, tmp_path / "out.safetensors", torch.float16)
    assert "found larger ones in projection.bias; take bf16 or fp32" in text
    assert not (tmp_path / "out.safetensors").exists()
    convert(source, tmp_path / "out.safetensors", torch.bfloat16)


def test_a_text_tower_that_does_not_run_here_is_still_described(tmp_path: Path) -> None:
    folder = tower_folder(tmp_path) / "text_encoder"
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"gelu"', '"quick_gelu"'))
    (found,) = describe(folder)
    assert found.kind == "text_encoder"
    assert found.config.startswith("none that runs here: hidden_act must be gelu, as published")


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


def test_missing_unexpected_and_misshaped_keys_are_told(tmp_path: Path) -> None:
    text = refused(prior_file(tmp_path, without="blocks.0.depthwise.bias"))
    assert "1 keys missing (blocks.0.depthwise.bias)" in text
    assert "warp-ai/wuerstchen-prior" in text
    text = refused(prior_file(tmp_path, {f"hint.{i}": torch.ones(1) for i in range(9)}))
    assert "9 keys unexpected (hint.0, hint.1, hint.2, …)" in text
    text = refused(prior_file(tmp_path, {"blocks.0.depthwise.bias": torch.ones(3)}))
    assert "1 keys of another shape (blocks.0.depthwise.bias [3] instead of [64])" in text
    text = refused(
        prior_file(tmp_path, {"blocks.0.depthwise.bias": torch.ones(64, dtype=torch.int8)})
    )
    assert "1 keys of a wrong type (blocks.0.depthwise.bias torch.int8)" in text


def test_sizes_that_shapes_do_not_tell_are_refused(tmp_path: Path) -> None:
    save_file(
        KINDS["stage_c"].network(StageCConfig(c=32, nhead=4, depth=1)).state_dict(),
        tmp_path / "a.safetensors",
    )
    assert "nhead cannot be read off the tensors unless 64 divides the channels, got 32" in refused(
        tmp_path / "a.safetensors"
    )
    assert "blocks.1.mapper.weight" in refused(
        prior_file(tmp_path, without="blocks.1.mapper.weight")
    )
    assert "is there twice" in refused(
        prior_file(tmp_path, {"blocks.2.attention.attn.in_proj_bias": torch.ones(192)})
    )
    assert "no three equal parts" in refused(
        prior_file(tmp_path, {"blocks.2.attention.attn.in_proj_bias": torch.ones(2)})
    )


@pytest.mark.parametrize("kind", TINY)
def test_no_tensor_can_be_left_out_or_bent_without_a_refusal(tmp_path: Path, kind: str) -> None:
    whole, file = state(kind), tmp_path / "a.safetensors"
    for key, tensor in whole.items():
        save_file({k: t for k, t in whole.items() if k != key}, file)
        refused(file, kind)
        save_file(whole | {key: torch.ones(()) if tensor.dim() else torch.ones(1)}, file)
        refused(file, kind)


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"width": 3}, "config entry 'width' is unknown, known are c_in, c,"),
        ({"depth": "1"}, "config entry depth must be like 32, got '1'"),
        ({"depth": True}, "config entry depth must be like 32, got True"),
        ({"depth": 0}, "Stage C sizes must be positive"),
        ({"nhead": 5}, "nhead must divide c = 64, got 5"),
        ({"depth": 10**5}, "config asks for 100000 blocks, but there are 28 tensors"),
        ({"c": 2**50}, "its config asks for sizes that cannot be (Storage size calculation"),
        ({"c_cond": 10**30}, "its config asks for sizes that cannot be ("),
        ({"dropout": 7.0}, "its config asks for sizes that cannot be (dropout probability"),
        ({"dropout": float("nan")}, "config entry dropout must be a finite number, got nan"),
        ({"dropout": float("inf")}, "config entry dropout must be a finite number, got inf"),
        ({"dropout": 10**400}, "config entry dropout must be a finite number, got 1000"),
        ({"depth": 2}, "keys missing (blocks.3."),
        ([], "expected a JSON object, found a list"),
    ],
)
def test_config_that_does_not_fit_is_refused(tmp_path: Path, entries: Any, words: str) -> None:
    save_file(state(), tmp_path / "diffusion_pytorch_model.safetensors")
    config = {**asdict(TINY["stage_c"]), **entries} if isinstance(entries, dict) else entries
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert words in refused(tmp_path)
    (tmp_path / "config.json").write_text("{")
    assert "expected a JSON object, found Expecting property name" in refused(tmp_path)


def test_the_blocks_that_a_config_asks_for_are_counted() -> None:
    published = {"stage_a": 14, "stage_b": 74, "stage_c": 32, "compressor": 40, "text_encoder": 32}
    assert {kind: blocks(entry.config()) for kind, entry in KINDS.items()} == published
    long = StageBConfig(blocks=(-(10**9), 10**6, 1, 1), level_config=("CT", "", "CTA", "CTA"))
    assert blocks(long) == 10**6 + 6


@pytest.mark.parametrize("size", ["c_in", "kernel_size", "c_hidden"])
def test_negative_sizes_are_refused(tmp_path: Path, size: str) -> None:
    save_file(state("stage_b"), tmp_path / "diffusion_pytorch_model.safetensors")
    config = {**asdict(TINY["stage_b"]), size: [-64] if size == "c_hidden" else -2}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "asks for sizes that cannot be (Trying to create tensor with negative" in refused(
        tmp_path, "stage_b"
    )


def odd_tensors() -> dict[str, Tensor]:
    whole = torch.ones(64, 64)
    return {
        "sparse": whole.to_sparse(),
        "without numbers": whole.to("meta"),
        "one number": torch.ones(1).expand(64, 64),
    }


@pytest.mark.parametrize("name", odd_tensors())
def test_tensors_without_all_their_numbers_are_refused(tmp_path: Path, name: str) -> None:
    torch.save(state() | {"cond_mapper.2.weight": odd_tensors()[name]}, tmp_path / "a.pt")
    text = refused(tmp_path / "a.pt")
    assert "repeated or missing), found cond_mapper.2.weight (torch.float32" in text


def test_names_and_numbers_of_tensors_far_beyond_any_model_are_refused(tmp_path: Path) -> None:
    file = prior_file(tmp_path, {"prior." * 10_000: torch.ones(1)})
    assert "found a name of 60000 characters" in refused(file)
    torch.save(state() | {"a" * 501: 1}, tmp_path / "a.pt")
    assert "found a name of 501 characters" in refused(tmp_path / "a.pt")
    save_file({str(i): torch.ones(0) for i in range(20_001)}, file)
    assert "expected at most 20000 tensors" in refused(file)


def safetensors_file(path: Path, dtype: str, shape: list[int], size: int) -> Path:
    """Write a file of one tensor, "a", of which the header says anything."""
    entry = {"a": {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}}
    header = json.dumps(entry).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(size))
    return path


def test_a_size_beyond_those_of_pytorch_is_refused(tmp_path: Path) -> None:
    assert "damaged" in refused(
        safetensors_file(tmp_path / "a.safetensors", "F32", [2**64 - 1, 0], 0)
    )


def test_numbers_of_four_bits_are_refused(tmp_path: Path) -> None:
    if not hasattr(torch, "float4_e2m1fn_x2"):
        pytest.skip("this PyTorch has no numbers of four bits")
    file = safetensors_file(tmp_path / "a.safetensors", "F4", [2, 4], 4)
    assert "found a (torch.float4" in refused(file)


@pytest.mark.parametrize("size", [b"\x80" + b"\xff" * 11, None])
def test_an_archive_of_old_with_a_damaged_header_is_refused(
    tmp_path: Path, size: bytes | None
) -> None:
    text = b"30 GNU.sparse.map=abc\n"
    info = tarfile.TarInfo("a")
    info.type, info.size = tarfile.XHDTYPE, len(text)
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    if size is not None:  # more than any file has
        header[124:136] = size
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
    file = tarfile.TarInfo("b").tobuf(tarfile.GNU_FORMAT)
    (tmp_path / "a.pt").write_bytes(bytes(header) + text + bytes(512 - len(text)) + file)
    assert "damaged or cut short" in refused(tmp_path / "a.pt")


def test_a_decoder_without_its_convolutions_is_refused_and_described(tmp_path: Path) -> None:
    tensors = {key: t for key, t in state("stage_b").items() if "depthwise" not in key}
    save_file(tensors, tmp_path / "a.safetensors")
    assert "keys unexpected (down_blocks" in refused(tmp_path / "a.safetensors", "stage_b")
    assert describe(tmp_path / "a.safetensors")[0].kind == "stage_b"


def test_many_levels_are_counted_in_one_pass() -> None:
    shapes = {f"down_blocks.{i}.0.mapper.weight": (2, 1) for i in range(6000)}
    started = time.perf_counter()
    assert level_layouts(shapes) == [(1, "T", 1)] * 6000
    assert time.perf_counter() - started < 2


@pytest.mark.parametrize("size", [None, [1], {}, float("inf"), "abc", 256.5, 0, 10**400])
def test_an_index_without_a_usable_size_is_refused(tmp_path: Path, size: Any) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"native_size": size}))
    text = message(native_size, tmp_path)
    assert text.startswith(f"{tmp_path / 'model_index.json'}: native_size must be a whole number")


@pytest.mark.parametrize("length", [2, 1, 0, -1, True, "77", [1], float("inf")])
def test_a_tokenizer_whose_chunks_have_no_room_is_refused(tmp_path: Path, length: Any) -> None:
    assert "model_max_length above 2" in message(
        load_tokenizer, tokenizer_folder(tmp_path, length), len(tokenizer(WORDS))
    )


@pytest.mark.parametrize("length", [3, 77, 1e30, None])
def test_a_tokenizer_may_leave_its_length_open(tmp_path: Path, length: Any) -> None:
    assert load_tokenizer(tokenizer_folder(tmp_path, length), len(tokenizer(WORDS)))


def test_a_tokenizer_with_numbers_beyond_the_vocabulary_is_refused(tmp_path: Path) -> None:
    folder = tokenizer_folder(tmp_path, 77)
    content = json.loads((folder / "tokenizer.json").read_text())
    words = content["model"]["vocab"]
    words[next(iter(words))] = 10**6
    (folder / "tokenizer.json").write_text(json.dumps(content))
    text = message(load_tokenizer, folder, len(words))
    assert f"expected at most {len(words)} tokens" in text


def tokenizer_folder(folder: Path, length: Any) -> Path:
    """Write a tokenizer whose config says a length, None for none."""
    tokenizer(WORDS).save_pretrained(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config.pop("model_max_length", None)
    if length is not None:
        config["model_max_length"] = length
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def test_unknown_kind_is_a_plain_value_error(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="must be one of stage_a, stage_b, stage_c, compressor, text_encoder, got"
    ):
        load_network(prior_file(tmp_path), "vae", PLACEMENT)


def test_pipeline_cannot_be_converted_as_one_network(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    for kind in ("stage_a", "stage_b"):
        (tmp_path / KINDS[kind].folder).mkdir()
        save_file(state(kind), tmp_path / KINDS[kind].folder / "model.safetensors")
    text = message(convert, tmp_path, tmp_path / "out.safetensors")
    assert "say which kind to convert, or give one of its component folders: " in text
    assert f"{tmp_path / 'decoder'}, {tmp_path / 'vqgan'}" in text


def test_file_of_two_networks_asks_which_one_to_convert(tmp_path: Path) -> None:
    torch.save({"state_dict": state(), "ema_state_dict": state("stage_b")}, tmp_path / "a.pt")
    text = message(convert, tmp_path / "a.pt", tmp_path / "out.safetensors")
    assert "found stage_b, stage_c; say which kind to convert" in text


def test_bad_targets_of_a_conversion_are_refused(tmp_path: Path) -> None:
    source = prior_file(tmp_path)
    for out in (tmp_path / "a.pt", tmp_path / "absent" / "a.safetensors"):
        assert "expected a file name ending in .safetensors" in message(convert, source, out)
    out = tmp_path / "a.safetensors"
    assert "dtype must be a floating point type" in message(convert, source, out, torch.int8)
    assert not out.exists()


def test_full_disk_leaves_nothing_behind_and_the_old_file_as_it_was(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="no limits on files here")
    source, out = prior_file(tmp_path), tmp_path / "out.safetensors"
    out.write_bytes(b"old")
    limits, handler = (
        resource.getrlimit(resource.RLIMIT_FSIZE),
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN),
    )
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        text = message(convert, source, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert text.startswith(f"{out}: could not be written")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "out.safetensors",
        "prior.safetensors",
    ]
    assert out.read_bytes() == b"old"


def tower_folder(root: Path, changes: dict[str, Tensor] | None = None, without: str = "") -> Path:
    """Write a pipeline folder with a text tower of which some tensors are changed or left out."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        hidden_act="gelu", bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    (root / "tokenizer").mkdir(parents=True)
    config.save_pretrained(root / "text_encoder")
    tensors: OrderedDict[str, Tensor] = OrderedDict(CLIPTextModel(config).state_dict()) | (
        changes or {}
    )
    tensors = OrderedDict((k.removeprefix("text_model."), t) for k, t in tensors.items())
    tensors.pop(without, None)
    save_file(tensors, root / "text_encoder" / "model.safetensors", {"format": "pt"})
    return root


def test_text_tower_is_loaded_strictly(tmp_path: Path) -> None:
    cases: dict[str, dict[str, Any]] = {
        "1 keys missing (final_layer_norm.weight)": {"without": "final_layer_norm.weight"},
        "1 keys unexpected (text_projection.weight)": {
            "changes": {"text_projection.weight": torch.ones(8, 8)}
        },
        "1 keys of another shape (final_layer_norm.bias [3] instead of [8])": {
            "changes": {"text_model.final_layer_norm.bias": torch.ones(3)}
        },
    }
    for i, (words, arguments) in enumerate(cases.items()):
        folder = tower_folder(tmp_path / str(i), **arguments)
        text = message(load_text_tower, folder, PLACEMENT)
        assert words in text
        assert text.startswith(str(folder))


def test_broken_text_towers_are_refused(tmp_path: Path) -> None:
    assert "expected a pipeline with folders text_encoder" in message(
        load_text_tower, tmp_path, PLACEMENT
    )
    file = prior_file(tmp_path)
    assert "found a file" in message(load_text_tower, file, PLACEMENT)
    folder = tower_folder(tmp_path / "x")
    assert f"{folder / 'tokenizer'}: transformers cannot load this tokenizer" in message(
        load_text_tower, folder, PLACEMENT
    )
    own = tower_folder(tmp_path / "y")
    tokenizer(WORDS).save_pretrained(own / "tokenizer")
    refusal = message(load_text_tower, own, PLACEMENT)
    assert "expected at most 8 tokens, as in the text_encoder beside" in refusal
    config = folder / "text_encoder" / "config.json"
    for words, said in (
        ({"hidden_size": 9, "num_attention_heads": 2}, "must divide hidden_size = 9, got 2"),
        ({"hidden_act": "quick_gelu"}, "hidden_act must be gelu, as published, got 'quick_gelu'"),
        ({"hidden_size": "8"}, "config entry hidden_size must be like 1280, got '8'"),
        ({"hidden_act": None}, "config entry hidden_act is missing"),
    ):
        entries = {"hidden_act": "gelu", "num_attention_heads": 1, **words}
        config.write_text(json.dumps({k: v for k, v in entries.items() if v is not None}))
        refusal = message(load_text_tower, folder, PLACEMENT)
        assert f"expected a CLIP text tower, but {said}" in refusal.replace(
            "num_attention_heads ", ""
        )
    config.unlink()
    assert "expected config.json beside model.safetensors" in message(
        load_text_tower, folder, PLACEMENT
    )
    config.write_text("{}")
    (folder / "text_encoder" / "model.safetensors").write_bytes(b"1234567890")
    assert "damaged" in message(load_text_tower, folder, PLACEMENT)


def test_a_tokenizer_runs_no_code(tmp_path: Path, tiny: Path) -> None:
    folder, exploded = tmp_path / "tokenizer", tmp_path / "exploded"
    shutil.copytree(tiny / "wuerstchen" / "tokenizer", folder)
    lines = ("import os", f"os.mkdir({str(exploded)!r})", "from transformers import CLIPTokenizer")
    (folder / "own.py").write_text("\n".join([*lines, "class Own(CLIPTokenizer): pass"]))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    own = {"auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]}, "tokenizer_class": "Own"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config | own))
    with suppress(CheckpointError):
        load_tokenizer(folder, 10**6)
    assert not exploded.exists()


def test_a_file_that_cannot_be_mapped_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise RuntimeError("unable to mmap 6000000103 bytes: Cannot allocate memory (12)")

    source = prior_file(tmp_path)
    monkeypatch.setattr("safetensors.safe_open", full)
    text = message(describe, source)
    assert text.startswith(f"{source}: there is no room to map it into memory (unable to mmap 6000")

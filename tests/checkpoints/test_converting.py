"""A converted file is the same network with its config in it; a refused one leaves nothing behind."""

import signal
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from wuerstchen.checkpoints.converting import convert
from wuerstchen.checkpoints.info import describe
from wuerstchen.checkpoints.loading import load_network
from wuerstchen.checkpoints.recognise import KINDS
from wuerstchen.compressor import CompressorConfig
from wuerstchen.placement import Placement

from .checkpoint_files import (
    FP16,
    FP32,
    TINY,
    assert_holds,
    component,
    message,
    original,
    prior_file,
    random_state,
    smallest_state,
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_a_converted_file_is_the_same_network_with_its_config_in_it(
    tmp_path: Path, kind: str, dtype: torch.dtype | None
) -> None:
    source, out = component(tmp_path / "x", kind), tmp_path / "out.safetensors"
    convert(source, out, dtype)
    placement = Placement(dtype=dtype or torch.float32)
    network = load_network(out, kind, placement)
    assert network.config == TINY[kind]
    assert_holds(network, random_state(kind), placement.dtype)
    with safe_open(out, "pt") as file:
        assert file.metadata()["format"] == "pt"
        assert file.metadata()["wuerstchen.kind"] == kind
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.safetensors", "x"]


def test_a_converted_text_tower_has_the_published_keys(tmp_path: Path) -> None:
    source, out = component(tmp_path / "x", "text_encoder"), tmp_path / "out.safetensors"
    convert(source, out)
    assert all(key.startswith("text_model.") for key in load_file(out))
    network = load_network(out, "text_encoder", FP32)
    assert network.config == TINY["text_encoder"]
    assert_holds(network, random_state("text_encoder"))


def test_both_networks_of_the_authors_decoder_file_can_be_converted(tmp_path: Path) -> None:
    with torch.device("meta"):
        full = KINDS["compressor"].network().state_dict()
    effnet = {
        key: torch.zeros(t.shape, dtype=t.dtype).half()
        if t.dim()
        else t.new_zeros((), device="cpu")
        for key, t in full.items()
    }
    torch.save(
        {"state_dict": original(random_state("stage_b")), "effnet_state_dict": effnet},
        tmp_path / "b.pt",
    )
    convert(tmp_path / "b.pt", tmp_path / "b.safetensors", kind="stage_b")
    convert(tmp_path / "b.pt", tmp_path / "e.safetensors", kind="compressor")
    assert_holds(load_network(tmp_path / "b.safetensors", "stage_b", FP32), random_state("stage_b"))
    assert load_network(tmp_path / "e.safetensors", "compressor", FP16).config == CompressorConfig()
    assert [d.kind for d in describe(tmp_path / "b.pt")] == ["stage_b", "compressor"]


def test_tensors_that_share_memory_are_loaded_and_converted(tmp_path: Path) -> None:
    state = random_state("stage_c")
    first, second = "blocks.0.channelwise.0.weight", "blocks.3.channelwise.0.weight"
    state[second] = state[first]
    whole = torch.cat([state[f"blocks.2.attention.to_{name}.weight"] for name in "qkv"])
    views = dict(zip("qkv", whole.chunk(3), strict=True))
    state |= {f"blocks.2.attention.to_{name}.weight": view for name, view in views.items()}
    torch.save(state, tmp_path / "a.pt")
    assert_holds(load_network(tmp_path / "a.pt", "stage_c", FP32), state)
    convert(tmp_path / "a.pt", tmp_path / "out.safetensors")
    assert_holds(load_network(tmp_path / "out.safetensors", "stage_c", FP32), state)


@pytest.mark.parametrize("stored", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_weights_of_eight_bits_are_converted(tmp_path: Path, stored: torch.dtype) -> None:
    state = {key: tensor.to(stored) for key, tensor in random_state("stage_c").items()}
    save_file(state, tmp_path / "a.safetensors")
    convert(tmp_path / "a.safetensors", tmp_path / "out.safetensors", torch.float16)
    network = load_network(tmp_path / "out.safetensors", "stage_c", FP16)
    assert_holds(network, {key: tensor.half() for key, tensor in state.items()}, torch.float16)


def test_a_file_can_be_converted_onto_itself(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    save_file(original(random_state("stage_c")), file)
    convert(file, file, torch.float16)
    assert_holds(load_network(file, "stage_c", FP16), random_state("stage_c"), torch.float16)


def test_a_converted_file_is_for_whom_its_source_is(tmp_path: Path) -> None:
    source = component(tmp_path / "x", "stage_a")
    (source / "diffusion_pytorch_model.safetensors").chmod(0o640)
    convert(source, tmp_path / "out.safetensors")
    assert oct((tmp_path / "out.safetensors").stat().st_mode & 0o777) == "0o640"


def test_pipeline_cannot_be_converted_as_one_network(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    for kind in ("stage_a", "stage_b"):
        (tmp_path / KINDS[kind].folder).mkdir()
        save_file(smallest_state(kind), tmp_path / KINDS[kind].folder / "model.safetensors")
    text = message(convert, tmp_path, tmp_path / "out.safetensors")
    assert "say which kind to convert, or give one of its component folders: " in text
    assert f"{tmp_path / 'decoder'}, {tmp_path / 'vqgan'}" in text


def test_file_of_two_networks_asks_which_one_to_convert(tmp_path: Path) -> None:
    torch.save(
        {"state_dict": smallest_state(), "ema_state_dict": smallest_state("stage_b")},
        tmp_path / "a.pt",
    )
    text = message(convert, tmp_path / "a.pt", tmp_path / "out.safetensors")
    assert "found stage_b, stage_c; say which kind to convert" in text


def test_bad_targets_of_a_conversion_are_refused(tmp_path: Path) -> None:
    source = prior_file(tmp_path)
    for out in (tmp_path / "a.pt", tmp_path / "absent" / "a.safetensors"):
        assert "expected a file name ending in .safetensors" in message(convert, source, out)
    out = tmp_path / "a.safetensors"
    assert "dtype must be a floating point type" in message(convert, source, out, torch.int8)
    assert not out.exists()


def test_numbers_beyond_the_precision_are_not_written(tmp_path: Path) -> None:
    source = prior_file(tmp_path, {"projection.bias": torch.full((64,), 1e6)})
    text = message(convert, source, tmp_path / "out.safetensors", torch.float16)
    assert "found larger ones in projection.bias; take bf16 or fp32" in text
    assert not (tmp_path / "out.safetensors").exists()
    convert(source, tmp_path / "out.safetensors", torch.bfloat16)


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

"""Each way a network may lie in files gives it, in the placement's precision, whole or not at all."""

import json
from dataclasses import asdict
from itertools import product
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import pytest
import torch
from safetensors.torch import save_file

from wuerstchen.checkpoints.files import METADATA_CONFIG
from wuerstchen.checkpoints.info import describe
from wuerstchen.checkpoints.loading import load_network
from wuerstchen.checkpoints.recognise import KINDS, PREFIXES
from wuerstchen.placement import Placement
from wuerstchen.stage_c import StageCConfig

from ..processes import printed
from .checkpoint_files import (
    FP32,
    SMALLEST,
    STAGES,
    TINY,
    assert_holds,
    component,
    original,
    prior_file,
    random_state,
    refused,
    smallest_state,
)

WRAPPERS = (
    "",
    "model.diffusion_model.",
    "diffusion_model.",
    "module.",
    "prior.",
    "decoder.",
    "vqgan.",
    "_orig_mod.",
    "module._orig_mod.prior.",
    "text_model.",
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name",
    [
        "diffusion_pytorch_model.safetensors",
        "model.safetensors",
        "diffusion_pytorch_model.bin",
        "pytorch_model.bin",
    ],
)
def test_component_folder_gives_its_network(tmp_path: Path, kind: str, name: str) -> None:
    network = load_network(component(tmp_path / "x", kind, name), kind, FP32)
    assert network.config == TINY[kind]
    assert_holds(network, random_state(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_pipeline_folder_gives_the_network_in_its_published_folder(
    tmp_path: Path, kind: str
) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    component(tmp_path / KINDS[kind].folder, kind)
    assert_holds(load_network(str(tmp_path), kind, FP32), random_state(kind))


def test_weights_saved_as_the_variant_fp16_are_found(tmp_path: Path) -> None:
    folder = component(tmp_path / "a", "stage_c", "diffusion_pytorch_model.fp16.safetensors")
    assert_holds(load_network(folder, "stage_c", FP32), random_state("stage_c"))


def test_a_weights_file_given_by_itself_takes_the_config_beside_it(tmp_path: Path) -> None:
    folder = component(tmp_path / "x", "compressor")
    file = folder / "diffusion_pytorch_model.safetensors"
    network = load_network(file, "compressor", FP32)
    assert network.config == TINY["compressor"]
    assert_holds(network, random_state("compressor"))


def test_a_config_beside_a_file_of_any_name_is_not_its_own(tmp_path: Path) -> None:
    save_file(random_state("stage_c"), tmp_path / "some.safetensors")
    (tmp_path / "config.json").write_text('{"model": "another"}')
    assert load_network(tmp_path / "some.safetensors", "stage_c", FP32).config == TINY["stage_c"]


@pytest.mark.parametrize("prefix", WRAPPERS)
@pytest.mark.parametrize(
    ("kind", "layout"),
    [("text_encoder", "diffusers"), *product(STAGES, ("diffusers", "original"))],
)
def test_single_file_gives_its_network_with_sizes_read_off_the_shapes(
    tmp_path: Path, kind: str, prefix: str, layout: str
) -> None:
    state = original(random_state(kind)) if layout == "original" else random_state(kind)
    file = tmp_path / "some.safetensors"
    save_file({prefix + key: tensor for key, tensor in state.items()}, file)
    network = load_network(file, kind, FP32)
    assert network.config == TINY[kind]
    assert_holds(network, random_state(kind))
    assert describe(file)[0].layout == layout


def test_every_known_wrapper_is_taken_off_above() -> None:
    assert set(PREFIXES) <= set(WRAPPERS)


def test_a_suffix_may_be_in_capitals(tmp_path: Path) -> None:
    file = tmp_path / "A.SAFETENSORS"
    save_file(random_state("stage_c"), file)
    assert_holds(load_network(file, "stage_c", FP32), random_state("stage_c"))


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize("kind", STAGES)
def test_authors_file_gives_its_network(tmp_path: Path, kind: str, old_format: bool) -> None:
    part = "ema_state_dict" if kind == "stage_c" else "state_dict"
    content = {part: original(random_state(kind)), "effnet_state_dict": {}, "step": 5}
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=not old_format)
    network = load_network(tmp_path / "a.pt", kind, FP32)
    assert network.config == TINY[kind]
    assert_holds(network, random_state(kind))


def test_averaged_weights_are_preferred_to_those_being_trained(tmp_path: Path) -> None:
    trained = {key: tensor * 0 for key, tensor in random_state("stage_c").items()}
    torch.save(
        {"state_dict": trained, "ema_state_dict": random_state("stage_c")}, tmp_path / "a.ckpt"
    )
    assert_holds(load_network(tmp_path / "a.ckpt", "stage_c", FP32), random_state("stage_c"))


def test_a_compressed_archive_has_the_same_tensors(tmp_path: Path) -> None:
    state = random_state("stage_c")
    torch.save(state, tmp_path / "stored.pt")
    with ZipFile(tmp_path / "stored.pt") as stored, ZipFile(tmp_path / "a.pt", "w") as archive:
        for name in stored.namelist():
            archive.writestr(name, stored.read(name), ZIP_DEFLATED)
    loaded = load_network(tmp_path / "a.pt", "stage_c", FP32).state_dict()
    assert all(torch.equal(loaded[key], state[key]) for key in state)


@pytest.mark.peer
@pytest.mark.parametrize("safe", [True, False])
def test_what_diffusers_saves_is_loaded(tmp_path: Path, safe: bool) -> None:
    peers = pytest.importorskip("diffusers.pipelines.deprecated.wuerstchen")
    names = {
        "stage_a": "PaellaVQModel",
        "stage_b": "WuerstchenDiffNeXt",
        "stage_c": "WuerstchenPrior",
    }
    (tmp_path / "model_index.json").write_text("{}")
    for kind, name in names.items():
        entries = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(TINY[kind]).items()}
        peer = getattr(peers, name)(**entries)
        peer.load_state_dict(random_state(kind))
        peer.save_pretrained(tmp_path / KINDS[kind].folder, safe_serialization=safe)
    for kind in names:
        network = load_network(tmp_path, kind, FP32)
        assert network.config == TINY[kind]
        assert_holds(network, random_state(kind))


def test_what_comfyui_saves_is_loaded(tmp_path: Path) -> None:
    sizes = torch.tensor(list(json.dumps(asdict(TINY["stage_c"])).encode()), dtype=torch.uint8)
    saved = {**random_state("stage_c"), METADATA_CONFIG: sizes}
    tensors = {f"model.diffusion_model.{key}": tensor for key, tensor in saved.items()}
    for others in ({}, {"first_stage_model.x": torch.ones(1), "conditioner.y": torch.ones(1)}):
        save_file(tensors | others, tmp_path / "a.safetensors")
        network = load_network(tmp_path / "a.safetensors", "stage_c", FP32)
        assert network.config == TINY["stage_c"]
        assert_holds(network, random_state("stage_c"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("stored", [torch.float32, torch.float16])
def test_networks_come_in_the_dtype_of_the_placement(
    tmp_path: Path, stored: torch.dtype, dtype: torch.dtype
) -> None:
    state = {
        k: t.to(stored) if t.is_floating_point() else t for k, t in random_state("stage_a").items()
    }
    save_file(state, tmp_path / "a.safetensors")
    network = load_network(tmp_path / "a.safetensors", "stage_a", Placement(dtype=dtype))
    assert_holds(network, state, dtype)


def test_layers_are_those_of_the_placement(tmp_path: Path) -> None:
    placement = Placement(offload="layer")
    network = load_network(component(tmp_path / "x", "stage_c"), "stage_c", placement)
    assert type(network.projection) is placement.ops.Conv2d


MEMORY = """
import resource, sys, torch
from wuerstchen.checkpoints.loading import load_network
from wuerstchen.placement import Placement

def private():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon"))

dtype = getattr(torch, sys.argv[2])
load_network(sys.argv[3], "stage_c", Placement(dtype=dtype))
peak, own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, private()
network = load_network(sys.argv[1], "stage_c", Placement(dtype=dtype))
sum(float(p.view(-1)[::512].float().sum()) for p in network.parameters())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak, private() - own)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_loading_keeps_the_weights_in_memory_only_once(tmp_path: Path) -> None:
    config = StageCConfig(c=1024, depth=4, nhead=16)
    with torch.device("meta"):
        shapes = {key: t.shape for key, t in KINDS["stage_c"].network(config).state_dict().items()}
    state = {key: torch.ones(shape) for key, shape in shapes.items()}
    save_file(state, tmp_path / "big.safetensors")
    torch.save({"ema_state_dict": original(state)}, tmp_path / "big.pt")
    save_file(random_state("stage_c"), tmp_path / "small.safetensors")
    size = (tmp_path / "big.safetensors").stat().st_size / 1024
    assert size > 190_000
    peak, private = printed(
        MEMORY, tmp_path / "big.safetensors", "float32", tmp_path / "small.safetensors"
    ).split()
    assert int(peak) < 1.3 * size
    assert int(private) < 0.1 * size
    # a cast copy is half as large; the file's own pages are the system's to drop
    _, private = printed(
        MEMORY, tmp_path / "big.pt", "float16", tmp_path / "small.safetensors"
    ).split()
    assert int(private) < 0.65 * size


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


@pytest.mark.parametrize("kind", SMALLEST)
def test_no_tensor_can_be_left_out_or_bent_without_a_refusal(tmp_path: Path, kind: str) -> None:
    whole, file = smallest_state(kind), tmp_path / "a.safetensors"
    for key, tensor in whole.items():
        save_file({k: t for k, t in whole.items() if k != key}, file)
        refused(file, kind)
        save_file(whole | {key: torch.ones(()) if tensor.dim() else torch.ones(1)}, file)
        refused(file, kind)


def test_unknown_kind_is_a_plain_value_error(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="must be one of stage_a, stage_b, stage_c, compressor, text_encoder, got"
    ):
        load_network(prior_file(tmp_path), "vae", FP32)

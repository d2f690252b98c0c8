"""A model, part, folder or file brings its networks; one that lacks some is refused with what it has."""

import json
import shutil
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from wuerstchen import CheckpointError, Wuerstchen
from wuerstchen.checkpoints.converting import convert
from wuerstchen.checkpoints.info import describe
from wuerstchen.checkpoints.sources import native_size

from .checkpoint_files import message, prior_file, refused, smallest_state

NETWORKS = {
    "prior_text": "prior_text.network",
    "stage_c": "stage_c",
    "decoder_text": "decoder_text.network",
    "stage_b": "stage_b",
    "stage_a": "stage_a",
    "compressor": "compressor",
}
# Which networks come from the other model, if this folder or file of it is given as that argument.
TAKEN = [
    ("model", "", {*NETWORKS}),
    ("prior", "wuerstchen-prior", {"prior_text", "stage_c"}),
    ("prior", "wuerstchen-prior/prior", {"stage_c"}),
    ("decoder", "wuerstchen", {"decoder_text", "stage_b", "stage_a", "compressor"}),
    ("decoder", "wuerstchen/decoder", {"stage_b"}),
    ("stage_a", "wuerstchen", {"stage_a"}),
    ("stage_a", "wuerstchen/vqgan", {"stage_a"}),
    ("compressor", "wuerstchen", {"compressor"}),
    ("compressor", "wuerstchen/efficient_net", {"compressor"}),
]


def weights(model: Wuerstchen) -> dict[str, float]:
    """The sum of each network's weights, by which it is known."""
    found = {name: attrgetter(path)(model) for name, path in NETWORKS.items()}
    return {name: sum(w.double().sum().item() for w in n.parameters()) for name, n in found.items()}


@pytest.mark.parametrize(("argument", "place", "taken"), TAKEN)
def test_a_source_brings_its_networks_and_the_model_the_rest(
    twins: tuple[Path, Path],
    pair: list[Wuerstchen],
    argument: str,
    place: str,
    taken: set[str],
) -> None:
    sources = {"model": twins[0], argument: twins[1] / place}
    mixed = Wuerstchen.load(**sources, device="cpu", progress=False)
    ours, theirs, found = map(weights, (*pair, mixed))
    assert all(ours[name] != theirs[name] for name in NETWORKS)
    assert found == {name: theirs[name] if name in taken else ours[name] for name in NETWORKS}
    assert mixed.native_size == pair["prior_text" in taken].native_size


def test_whole_prior_and_decoder_need_no_model(tiny: Path) -> None:
    pair = {"prior": tiny / "wuerstchen-prior", "decoder": str(tiny / "wuerstchen")}
    assert Wuerstchen.load("/nowhere", **pair, device="cpu").native_size == 256


def test_prior_and_decoder_may_lie_in_one_pipeline_as_diffusers_saves_them(
    tmp_path: Path, tiny: Path
) -> None:
    prior, decoder, joined = tiny / "wuerstchen-prior", tiny / "wuerstchen", tmp_path / "joined"
    shutil.copytree(decoder, joined)
    for name in ("prior", "text_encoder", "tokenizer"):
        shutil.copytree(prior / name, joined / f"prior_{name}")
    settings = {"seed": 3, "width": 128, "height": 128, "steps": 2, "decoder_steps": 2}
    pictures = [
        Wuerstchen.load(model, device="cpu", progress=False).paint("a cat", **settings)[0]
        for model in (tiny, joined)
    ]
    assert pictures[0].tobytes() == pictures[1].tobytes()


def test_models_may_lie_at_home(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tiny))
    assert Wuerstchen.load("~", device="cpu", progress=False).native_size == 256
    assert describe("~/wuerstchen/vqgan")[0].kind == "stage_a"


def test_a_model_without_a_native_size_paints_at_1024(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "copy")
    index = tmp_path / "copy" / "wuerstchen-prior" / "model_index.json"
    index.write_text(json.dumps({"_class_name": "WuerstchenPriorPipeline"}))
    assert Wuerstchen.load(tmp_path / "copy", device="cpu").native_size == 1024


@pytest.mark.parametrize("size", [None, [1], {}, float("inf"), "abc", 256.5, 0, 10**400])
def test_an_index_without_a_usable_size_is_refused(tmp_path: Path, size: Any) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"native_size": size}))
    text = message(native_size, tmp_path)
    assert text.startswith(f"{tmp_path / 'model_index.json'}: native_size must be a whole number")


def test_a_folder_that_is_no_model_is_refused_with_what_it_lacks(
    tiny: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        CheckpointError,
        match=r"wuerstchen-prior/model_index\.json or wuerstchen/model_index\.json",
    ):
        Wuerstchen.load(tmp_path)
    shutil.copytree(tiny, tmp_path / "copy")
    (tmp_path / "copy" / "wuerstchen" / "model_index.json").unlink()
    with pytest.raises(CheckpointError, match=r"but found no wuerstchen/model_index\.json;"):
        Wuerstchen.load(tmp_path / "copy")


def test_missing_path_is_refused(tmp_path: Path) -> None:
    for source in (
        tmp_path / "no.safetensors",
        "models/no.safetensors",
        str(tmp_path / "x"),
        Path("warp-ai/none"),
    ):
        assert "found nothing at this path" in refused(source)
        assert "found nothing at this path" in message(describe, source)


def test_folder_without_index_or_config_is_refused(tmp_path: Path) -> None:
    assert "found an empty folder" in refused(tmp_path)
    (tmp_path / "readme.md").touch()
    text = refused(tmp_path)
    assert (
        "expected model_index.json, or config.json with diffusion_pytorch_model.safetensors" in text
    )
    assert "found readme.md" in text
    save_file(smallest_state(), tmp_path / "diffusion_pytorch_model.safetensors")
    assert "expected config.json beside" in refused(tmp_path)


def test_pipeline_without_the_component_says_which_it_has(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    (tmp_path / "vqgan").mkdir()
    save_file(smallest_state("stage_a"), tmp_path / "vqgan" / "diffusion_pytorch_model.safetensors")
    assert "expected weights in its folder prior, found vqgan" in refused(tmp_path)


def test_folder_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").mkdir()
    assert "found an empty folder" in refused(tmp_path / "a.safetensors")
    assert "expected a file name" in message(
        convert, prior_file(tmp_path), tmp_path / "a.safetensors"
    )

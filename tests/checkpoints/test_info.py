"""What `info` tells of a folder, of a whole model, and of a network that does not run here."""

from hashlib import sha256
from pathlib import Path

from wuerstchen.checkpoints.info import describe
from wuerstchen.checkpoints.recognise import KINDS

from .checkpoint_files import TINY, component, tower_folder


def test_a_description_tells_what_a_pipeline_folder_holds(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    component(tmp_path / "decoder", "stage_b")
    vqgan = component(tmp_path / "vqgan", "stage_a") / "diffusion_pytorch_model.safetensors"
    decoder, description = describe(tmp_path)
    assert (decoder.kind, decoder.name, decoder.layout) == (
        "stage_b",
        "Stage B (the decoder)",
        "diffusers",
    )
    network = KINDS["stage_a"].network(TINY["stage_a"])
    assert description.parameters == sum(p.numel() for p in network.parameters())
    assert description.bytes == vqgan.stat().st_size
    assert description.path == vqgan
    assert description.dtypes == ("float32", "int64")
    assert description.sha256 == sha256(vqgan.read_bytes()).hexdigest()
    assert "embed_dim 16" in description.config
    assert "levels" not in description.config


def test_a_whole_model_is_described_by_its_name_or_folder(tiny: Path) -> None:
    networks = {"stage_c", "stage_b", "stage_a"}
    assert networks <= {one.kind for one in describe(tiny)}
    assert networks | {"compressor"} <= {one.kind for one in describe("mini")}


def test_a_text_tower_that_does_not_run_here_is_still_described(tmp_path: Path) -> None:
    folder = tower_folder(tmp_path) / "text_encoder"
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"gelu"', '"quick_gelu"'))
    (found,) = describe(folder)
    assert found.kind == "text_encoder"
    assert found.config.startswith("none that runs here: hidden_act must be gelu, as published")

"""Wrong files in a running ComfyUI: what the node's dialog says, and that the queue goes on."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from .graphs import DECODER, EMPTY, PRIOR, STAGE_B, STAGE_C, put
from .server import ROOT, Host

pytestmark = pytest.mark.host

STABLE_DIFFUSION = "model.diffusion_model.input_blocks.0.0.weight"
STABLE_CASCADE = "clip_txt_mapper.weight"
DECODER_FILE = "wuerstchen/mini/wuerstchen/decoder/diffusion_pytorch_model.safetensors"
VAE_FILE = "wuerstchen/mini/wuerstchen/vqgan/diffusion_pytorch_model.safetensors"
Put = Callable[[str, str, Any], str]


@pytest.fixture
def place(host: Host) -> Put:
    """What lays a file into a folder of the host's models: bytes, or tensors to save."""

    def placed(folder: str, name: str, content: Any) -> str:
        path = host.base / "models" / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            save_file(content, path)
        return name

    return placed


def refusal(host: Host, graph: Any, node: str, **inputs: str) -> str:
    """Return what a loader's dialog says of other files."""
    put(graph, node, **inputs)
    outcome = host.run(graph)
    assert outcome.error["node_id"] == node
    return outcome.message


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (STABLE_DIFFUSION, "a Stable Diffusion checkpoint"),
        (STABLE_CASCADE, "the prior of Stable Cascade (v3)"),
    ],
)
def test_another_model_is_named(host: Host, graph: Any, place: Put, key: str, name: str) -> None:
    file = place("diffusion_models", f"{name}.safetensors", {key: torch.zeros(2, 2)})
    said = refusal(host, graph, PRIOR, prior=file)
    assert file in said
    assert f"expected Stage C (the prior), this is {name}" in said
    put(graph, PRIOR, prior="mini (bundled)")
    assert f"expected Stage B (the decoder), this is {name}" in refusal(
        host, graph, DECODER, stage_b=file
    )


def test_stage_b_in_place_of_stage_c_is_named(host: Host, graph: Any, place: Put) -> None:
    file = place("diffusion_models", "b.safetensors", (ROOT / DECODER_FILE).read_bytes())
    said = refusal(host, graph, PRIOR, prior=file)
    assert "expected Stage C (the prior), this is Stage B (the decoder)" in said
    assert said.strip().endswith("give it as the decoder")


def test_another_text_tower_is_named(host: Host, graph: Any, place: Put) -> None:
    file = place("text_encoders", "a.safetensors", (ROOT / VAE_FILE).read_bytes())
    said = refusal(host, graph, PRIOR, text_encoder=file)
    assert "expected a CLIP text tower, this is Stage A (the VQGAN)" in said


def test_a_damaged_file_is_named(host: Host, graph: Any, place: Put) -> None:
    whole = (ROOT / VAE_FILE).read_bytes()
    file = place("vae", "half.safetensors", whole[: len(whole) // 2])
    assert file in refusal(host, graph, DECODER, stage_a=file)


def test_a_missing_file_is_named(host: Host, graph: Any) -> None:
    put(graph, PRIOR, prior="gone.safetensors")
    assert "gone.safetensors" in host.run(graph).message


def test_the_folder_of_our_own_serves_as_well(host: Host, graph: Any, place: Put) -> None:
    file = place("wuerstchen", "own.safetensors", (ROOT / VAE_FILE).read_bytes())
    config = (ROOT / VAE_FILE).with_name("config.json").read_bytes()
    place("wuerstchen", "config.json", config)
    put(graph, DECODER, stage_a=file)
    assert host.run(graph).message == ""


def test_an_empty_stage_c_latent_is_refused(host: Host, graph: Any) -> None:
    put(graph, STAGE_B, latent=[EMPTY, 0])
    assert "put Würstchen Stage C Sampler after it" in host.run(graph).message


def test_the_queue_goes_on_after_all_of_it(host: Host, graph: Any) -> None:
    put(graph, STAGE_C, seed=404)
    assert len(host.run(graph).images) == 1

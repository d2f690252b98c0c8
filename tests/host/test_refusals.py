"""Wrong files in a running ComfyUI: what the node's dialog says, and that the queue goes on."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from .graphs import DECODER, EMPTY, PRIOR, STAGE_B, STAGE_C, put
from .server import ROOT, Host

pytestmark = pytest.mark.host

STABLE_DIFFUSION = "model.diffusion_model.input_blocks.0.0.weight"
STABLE_CASCADE = "clip_txt_mapper.weight"
DECODER_FILE = "wuerstchen/mini/wuerstchen/decoder/diffusion_pytorch_model.safetensors"
VAE_FILE = "wuerstchen/mini/wuerstchen/vqgan/diffusion_pytorch_model.safetensors"
TOWER = ROOT / "wuerstchen/mini/wuerstchen-prior"
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


@pytest.fixture
def tower(place: Put) -> Callable[..., str]:
    """What lays a text tower into a folder of its own, with changes to its tensors and config."""

    def laid(name: str, tensors: dict[str, Any], **entries: Any) -> str:
        config = json.loads((TOWER / "text_encoder/config.json").read_text())
        place(
            "text_encoders",
            f"{name}/text_encoder/config.json",
            json.dumps(config | entries).encode(),
        )
        for file in ("vocab.json", "merges.txt"):
            content = (TOWER / "tokenizer" / file).read_bytes()
            place("text_encoders", f"{name}/tokenizer/{file}", content)
        whole = load_file(TOWER / "text_encoder/model.safetensors")
        return place("text_encoders", f"{name}/text_encoder/model.safetensors", whole | tensors)

    return laid


def test_a_text_tower_that_does_not_fit_its_sizes_is_refused(
    host: Host, graph: Any, tower: Callable[..., str]
) -> None:
    norm, table = "final_layer_norm.weight", "embeddings.token_embedding.weight"
    keys = load_file(TOWER / "text_encoder/model.safetensors").keys()
    norm, table = (next(key for key in keys if key.endswith(end)) for end in (norm, table))
    cases: dict[str, dict[str, Any]] = {
        "1 keys of a wrong type": {"tensors": {norm: torch.ones(128, dtype=torch.int8)}},
        f"{norm} [5] instead of [128]".removeprefix("text_model."): {
            "tensors": {norm: torch.ones(5)}
        },
        "keys of another shape": {"tensors": {table: torch.ones(690)}},
        "num_attention_heads must divide hidden_size": {"num_attention_heads": 7},
        "num_attention_heads must be like": {"num_attention_heads": "2"},
        "hidden_act one of": {"hidden_act": "swish"},
    }
    for i, (words, changes) in enumerate(cases.items()):
        file = tower(f"tower {i}", **{"tensors": {}, **changes})
        assert words in refusal(host, graph, PRIOR, text_encoder=file)
    put(graph, PRIOR, text_encoder=tower("whole", {}, hidden_act="quick_gelu"))
    assert host.run(graph).message == ""


def test_a_tokenizer_that_does_not_fit_its_text_tower_is_refused(
    host: Host, graph: Any, place: Put, tower: Callable[..., str]
) -> None:
    vocabulary = json.loads((TOWER / "tokenizer/vocab.json").read_text())
    vocabulary[next(iter(vocabulary))] = 10**6
    cases = {
        "with numbers from 0 to 689, found 1000000": json.dumps(vocabulary).encode(),
        "cannot load this tokenizer": b"{",
    }
    for i, (words, content) in enumerate(cases.items()):
        file = tower(f"tokenizer {i}", {})
        place("text_encoders", f"tokenizer {i}/tokenizer/vocab.json", content)
        assert words in refusal(host, graph, PRIOR, text_encoder=file)


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

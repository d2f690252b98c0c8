"""The graph nodes in a real ComfyUI, driven as its frontend drives it.

    COMFYUI_DIR=/path/to/ComfyUI pytest -m host

COMFYUI_PYTHON names the host's Python where it is not the one that runs pytest.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .host_server import ROOT, Host, pixels

pytestmark = pytest.mark.host

SEED, DECODER_SEED = 1, 2
IDS = {
    "WuerstchenLoadPrior",
    "WuerstchenLoadDecoder",
    "WuerstchenTextEncode",
    "WuerstchenEmptyLatent",
    "WuerstchenStageCSampler",
    "WuerstchenStageBDecode",
    "WuerstchenStageADecode",
    "WuerstchenTimes",
    "WuerstchenStageBConditioning",
}


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """The running server."""
    checkout = os.environ.get("COMFYUI_DIR")
    if not checkout:
        pytest.skip("no ComfyUI: run COMFYUI_DIR=/path/to/ComfyUI pytest -m host")
    pytest.importorskip("aiohttp", reason="run with the host's Python, which has aiohttp")
    server = Host(Path(checkout), tmp_path_factory.mktemp("base"))
    try:
        server.wait()
        yield server
    finally:
        server.stop()


@pytest.fixture
def graph() -> Any:
    """The plainest graph: from a prompt to a picture."""
    file = ROOT / "tests" / "workflows" / "text_to_image.json"
    return json.loads(file.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def command_line_picture(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What the command line paints with the settings of the graph."""
    out = tmp_path_factory.mktemp("command") / "picture.png"
    words = ["a large red circle on a blue background", "--seed", str(SEED)]
    words += ["--decoder-seed", str(DECODER_SEED), "--device", "cpu", "--output", str(out)]
    subprocess.run([sys.executable, "-m", "wuerstchen", *words], cwd=ROOT, check=True)
    return out.read_bytes()


def test_the_host_has_all_nodes_and_every_input_and_output_is_explained(host: Host) -> None:
    known = host.get("object_info")
    assert set(known) >= IDS
    for name in IDS:
        node = known[name]
        groups = (node["input"].get("required", {}), node["input"].get("optional", {}))
        inputs = {key: entry for group in groups for key, entry in group.items()}
        assert node["description"]
        assert [key for key, entry in inputs.items() if not entry[1].get("tooltip")] == []
        assert all(node["output_tooltips"])


def test_the_graph_paints_the_picture_of_its_prompt(host: Host, graph: Any) -> None:
    outcome = host.run(graph)
    assert outcome.message == ""
    assert outcome.steps == {"7": 29, "8": 12}
    levels = pixels(outcome.images[0])
    assert levels.shape == (256, 256, 3)
    middle, corner = levels[128, 128], levels[8, 8]
    assert middle[0] > middle[2] + 80
    assert corner[2] > corner[0] + 80


def test_the_graph_equals_the_command_line(
    host: Host, graph: Any, command_line_picture: bytes
) -> None:
    graph["10"]["inputs"]["filename_prefix"] = "equal"  # a cached SaveImage saves nothing
    graph["7"]["inputs"]["seed"], graph["8"]["inputs"]["seed"] = SEED, DECODER_SEED
    difference = abs(pixels(host.run(graph).images[0]) - pixels(command_line_picture))
    assert difference.max() <= 2


def test_another_seed_of_stage_b_runs_only_what_follows_it(host: Host, graph: Any) -> None:
    host.run(graph)
    graph["8"]["inputs"]["seed"] = 77
    assert host.run(graph).ran == ["8", "9", "10"]


def test_a_latent_of_another_stage_is_refused_in_words(host: Host, graph: Any) -> None:
    graph["9"]["inputs"]["latent"] = ["7", 0]
    assert "connect the output of Würstchen Stage B Decode" in host.run(graph).message
    graph["9"]["inputs"]["latent"] = ["8", 0]
    graph["8"]["inputs"]["latent"] = ["8b", 0]
    graph["8b"] = {
        "class_type": "EmptyLatentImage",
        "inputs": {"width": 256, "height": 256, "batch_size": 1},
    }
    assert "connect the output of Würstchen Stage C Sampler" in host.run(graph).message


def test_a_model_or_text_of_another_stage_is_refused_in_words(host: Host, graph: Any) -> None:
    graph["7"]["inputs"]["positive"] = ["5", 0]
    assert "encode the text with the CLIP of Würstchen Load Prior" in host.run(graph).message
    graph["7"]["inputs"]["positive"] = ["3", 0]
    graph["7"]["inputs"]["model"] = ["2", 0]
    assert "model must be Stage C, got Stage B" in host.run(graph).message


def test_after_a_refusal_the_next_graph_runs(host: Host, graph: Any) -> None:
    graph["10"]["inputs"]["filename_prefix"] = "after"
    assert len(host.run(graph).images) == 1

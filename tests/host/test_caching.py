"""What runs again after a change, and latents that are kept as files, in a running ComfyUI."""

from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from .graphs import DECODER, SAVE, STAGE_A, STAGE_B, STAGE_C, add, again, put, save_picture
from .server import ROOT, Host, pixels

pytestmark = pytest.mark.host

BUNDLED = "mini (bundled)"
VQGAN = ROOT / "wuerstchen" / "mini" / "wuerstchen" / "vqgan"


@pytest.fixture
def other_stage_a(host: Host) -> str:
    """Another Stage A in the host's folder of VAEs: the bundled one, a little brighter."""
    from wuerstchen.checkpoints.converting import convert

    path = host.base / "models" / "vae" / "brighter.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    convert(VQGAN, path)
    weights = load_file(path)
    weights["out_block.0.bias"] += 0.1
    save_file(weights, path, metadata_of(path))
    return path.name


def metadata_of(path: Any) -> dict[str, str]:
    """Return what a safetensors file tells of itself."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        told: dict[str, str] = file.metadata()
        return told


def test_another_seed_of_stage_c_runs_all_stages_but_no_text(host: Host, graph: Any) -> None:
    host.run(graph)
    put(graph, STAGE_C, seed=501)
    assert host.run(graph).ran == [STAGE_C, STAGE_B, STAGE_A, SAVE]


def test_another_stage_a_runs_stage_a_alone(host: Host, graph: Any, other_stage_a: str) -> None:
    loader = add(graph, "WuerstchenLoadStageA", stage_a=BUNDLED, weight_dtype="fp32")
    put(graph, STAGE_A, vae=loader)
    before = host.run(graph)
    put(graph, loader[0], stage_a=other_stage_a)
    outcome = host.run(graph)
    assert outcome.ran == [loader[0], STAGE_A, SAVE]
    assert {DECODER, STAGE_C, STAGE_B} <= set(outcome.cached)
    assert before.message == ""
    brighter = pixels(outcome.images[0]).mean() - pixels(before.images[0]).mean()
    assert 5 < brighter < 40


def test_a_file_that_changed_is_read_again(host: Host, graph: Any, other_stage_a: str) -> None:
    loader = add(graph, "WuerstchenLoadStageA", stage_a=other_stage_a, weight_dtype="fp32")
    put(graph, STAGE_A, vae=loader)
    before = host.run(graph)
    assert host.run(graph).ran == []
    path = host.base / "models" / "vae" / other_stage_a
    weights = load_file(path)
    weights["out_block.0.bias"] -= 0.2
    save_file(weights, path, metadata_of(path))
    outcome = host.run(graph)
    assert outcome.ran == [loader[0], STAGE_A, SAVE]
    assert 5 < pixels(before.images[0]).mean() - pixels(outcome.images[0]).mean() < 80


@pytest.mark.parametrize("stage", [STAGE_C, STAGE_B])
def test_a_latent_that_goes_through_a_file_gives_the_same_picture(
    host: Host, graph: Any, stage: str
) -> None:
    put(graph, STAGE_C, seed=502)
    name = f"kept{stage}"
    add(graph, "SaveLatent", samples=[stage, 0], filename_prefix=name)
    save_picture(graph, [STAGE_A, 0])
    straight = host.run(graph).images[-1]
    kept = add(graph, "LoadLatent", latent=f"{name}_00001_.latent [output]")
    if stage == STAGE_C:
        kept = again(graph, STAGE_B, latent=kept)
    save_picture(graph, again(graph, STAGE_A, latent=kept))
    outcome = host.run(graph)
    assert outcome.message == ""
    assert (pixels(outcome.images[-1]) == pixels(straight)).all()

"""The plainest graph in a running ComfyUI: its picture, what is cached, what is refused."""

import subprocess
import sys
from typing import Any

import pytest

from .graphs import (
    DECODER,
    EMPTY,
    NEGATIVE,
    POSITIVE,
    POSITIVE_B,
    SAVE,
    STAGE_A,
    STAGE_B,
    STAGE_C,
    add,
    put,
    save_picture,
)
from .server import ROOT, Host, pixels

pytestmark = pytest.mark.host

SEED, DECODER_SEED = 1, 2


@pytest.fixture(scope="module")
def command_line_picture(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What the command line paints with the settings of the graph."""
    out = tmp_path_factory.mktemp("command") / "picture.png"
    words = ["a large red circle on a blue background", "--seed", str(SEED)]
    words += ["--decoder-seed", str(DECODER_SEED), "--device", "cpu", "--output", str(out)]
    subprocess.run([sys.executable, "-m", "wuerstchen", *words], cwd=ROOT, check=True)
    return out.read_bytes()


def test_the_graph_paints_the_picture_of_its_prompt(host: Host, graph: Any) -> None:
    put(graph, STAGE_C, seed=101)
    outcome = host.run(graph)
    assert outcome.message == ""
    assert outcome.steps == {STAGE_C: 29, STAGE_B: 12}
    levels = pixels(outcome.images[0])
    assert levels.shape == (256, 256, 3)
    middle, corner = levels[128, 128], levels[8, 8]
    assert middle[0] > middle[2] + 80
    assert corner[2] > corner[0] + 80


def test_the_graph_equals_the_command_line(
    host: Host, graph: Any, command_line_picture: bytes
) -> None:
    put(graph, STAGE_C, seed=SEED)
    put(graph, STAGE_B, seed=DECODER_SEED)
    save_picture(graph, [STAGE_A, 0])
    difference = abs(pixels(host.run(graph).images[-1]) - pixels(command_line_picture))
    assert difference.max() <= 2


def test_another_seed_of_stage_b_runs_only_what_follows_it(host: Host, graph: Any) -> None:
    host.run(graph)
    put(graph, STAGE_B, seed=77)
    outcome = host.run(graph)
    assert outcome.ran == [STAGE_B, STAGE_A, SAVE]
    assert {DECODER, POSITIVE, NEGATIVE, POSITIVE_B, EMPTY, STAGE_C} <= set(outcome.cached)


def test_a_latent_of_another_stage_is_refused_in_words(host: Host, graph: Any) -> None:
    put(graph, STAGE_A, latent=[STAGE_C, 0])
    assert "connect the output of Würstchen Stage B Decode" in host.run(graph).message
    put(graph, STAGE_A, latent=[STAGE_B, 0])
    put(graph, STAGE_B, latent=add(graph, "EmptyLatentImage", width=256, height=256, batch_size=1))
    assert "connect the output of Würstchen Stage C Sampler" in host.run(graph).message


def test_a_model_or_text_of_another_stage_is_refused_in_words(host: Host, graph: Any) -> None:
    put(graph, STAGE_C, positive=[POSITIVE_B, 0])
    assert "encode the text with the CLIP of Würstchen Load Prior" in host.run(graph).message
    put(graph, STAGE_C, positive=[POSITIVE, 0], model=[DECODER, 0])
    assert "model must be Stage C, got Stage B" in host.run(graph).message


def test_after_a_refusal_the_next_graph_runs(host: Host, graph: Any) -> None:
    put(graph, STAGE_A, latent=[STAGE_C, 0])
    assert host.run(graph).message
    put(graph, STAGE_A, latent=[STAGE_B, 0])
    save_picture(graph, [STAGE_A, 0])
    assert host.run(graph).message == ""


def test_a_textual_inversion_is_read(host: Host, graph: Any) -> None:
    import torch
    from safetensors.torch import save_file

    from .graphs import again, apart, latents

    folder = host.base / "models" / "embeddings"
    folder.mkdir(parents=True, exist_ok=True)
    vectors = torch.randn(2, 128, generator=torch.Generator().manual_seed(0))
    save_file({"clip_g": vectors}, folder / "own-word.safetensors")
    put(graph, STAGE_C, times="uniform", steps=2)
    texts = [again(graph, POSITIVE, text=text) for text in ("embedding:own-word", "")]
    word, empty = latents(host, graph, *(again(graph, STAGE_C, positive=text) for text in texts))
    assert apart(word, empty) > 0.01

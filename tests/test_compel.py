"""Embeddings from elsewhere, given directly: those of Compel, for both stages."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from wuerstchen import Wuerstchen, generators, to_images
from wuerstchen.checkpoints.sources import MINI
from wuerstchen.training.judge import judge

compel: Any = pytest.importorskip("compel")
pytestmark = pytest.mark.peer


@pytest.fixture(scope="module")
def model() -> Wuerstchen:
    return Wuerstchen.load(device="cpu", progress=False)


def encode(folder: str, prompt: str) -> Tensor:
    """Return what Compel makes of a prompt with tokenizer and text encoder of a bundled folder."""
    from transformers import AutoTokenizer, CLIPTextModel

    tokenizer = AutoTokenizer.from_pretrained(MINI / folder / "tokenizer")
    network = CLIPTextModel.from_pretrained(MINI / folder / "text_encoder", dtype=torch.float32)
    kind = compel.ReturnedEmbeddingsType.LAST_HIDDEN_STATES_NORMALIZED
    encoder = compel.Compel(tokenizer, network, returned_embeddings_type=kind)
    embeddings: Tensor = encoder(prompt).detach()
    return embeddings


def test_compel_reads_the_words_as_the_package_does(model: Wuerstchen) -> None:
    prompt = "a large red circle on a blue background"
    ours, theirs = model.prior_text.encode([prompt]), encode("wuerstchen-prior", prompt)
    words = slice(0, 10)  # start, eight words, end; Compel lets padding see more than the prompt
    assert ours.shape == theirs.shape
    assert float((ours[:, words] - theirs[:, words]).abs().max()) < 1e-5


@pytest.mark.parametrize(
    ("prompt", "seen"),
    [
        ("a large red circle on a blue background", ("red", "circle", "blue")),
        ("a small yellow++ star on a green background", ("yellow", "star", "green")),
        ("a (large green)1.2 cross on a white background", ("green", "cross", "white")),
    ],
)
def test_its_embeddings_paint_what_the_prompt_says(
    model: Wuerstchen, prompt: str, seen: tuple[str, str, str]
) -> None:
    rngs = generators([1])
    semantic = model.sample_semantic(encode("wuerstchen-prior", prompt), rngs)
    vq = model.sample_vq(semantic, encode("wuerstchen", prompt), rngs)
    verdict = judge(np.asarray(to_images(model.decode_pixels(vq))[0]))
    assert verdict is not None
    assert (verdict.colour, verdict.shape, verdict.background) == seen

"""Text towers: shapes, padding, the mask, chunks, weights, features from elsewhere."""

import json
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from wuerstchen import Wuerstchen, generators
from wuerstchen.placement import Placement
from wuerstchen.text import TextTower
from wuerstchen.towers import load_text_tower
from wuerstchen.weighting import pieces

from .peers import error

LONG = "a large red circle on a blue background " * 11 + "large star"  # 90 tokens
FULL = "red " * 75
PLAIN = ["a red circle", "", "A large, GREEN star!", FULL, r"info: 3 + 4 = 7 \ 8"]


@pytest.fixture(scope="module", params=["wuerstchen-prior", "wuerstchen"])
def home(tiny: Path, request: pytest.FixtureRequest) -> Path:
    return tiny / str(request.param)


@pytest.fixture(scope="module")
def tower(home: Path) -> TextTower:
    return load_text_tower(home, Placement())


@torch.no_grad()
def by_transformers(home: Path, prompts: list[str]) -> Tensor:
    """What tokenizer and network give without this package; diffusers calls them so too."""
    from transformers import AutoTokenizer, CLIPTextModel

    network = CLIPTextModel.from_pretrained(home / "text_encoder").eval()
    tokens = AutoTokenizer.from_pretrained(home / "tokenizer")(
        prompts, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
    )
    features: Tensor = network(tokens.input_ids, tokens.attention_mask).last_hidden_state
    return features


def test_features_are_float32_of_all_tokens_with_the_padding(tower: TextTower) -> None:
    features = tower.encode(["a red circle", ""])
    assert features.shape == (2, 77, tower.width)
    assert features.dtype == torch.float32
    assert features.isfinite().all()


@pytest.mark.parametrize("weighting", ["comfy", "compel", "none"])
def test_without_weights_features_are_those_of_transformers(
    home: Path, tower: TextTower, weighting: str
) -> None:
    assert error(tower.encode(PLAIN, weighting), by_transformers(home, PLAIN)) < 1e-5


def test_a_prompt_has_the_same_features_in_any_company(tower: TextTower) -> None:
    prompts = [
        "a red circle",
        LONG,
        "a large (green:1.3) star on a blue background",
        f"{LONG} {LONG}",
    ]
    together = tower.encode_each(prompts)
    assert [part.shape[1] for part in together] == [77, 154, 77, 231]
    for prompt, features in zip(prompts, together, strict=True):
        torch.testing.assert_close(features, tower.encode([prompt]), atol=1e-5, rtol=1e-5)


def test_capitals_do_not_matter(tower: TextTower) -> None:
    assert torch.equal(tower.encode(["A Red CIRCLE"]), tower.encode(["a red circle"]))


def test_padding_attends_to_the_prompt_alone(tower: TextTower) -> None:
    tokens = tower.tokenizer(["a red circle"], padding="max_length", return_tensors="pt")
    mask = tokens.attention_mask.bool()
    assert mask.sum() == 5
    with torch.no_grad():
        masked = tower.network(tokens.input_ids, mask)
        unmasked = tower.network(tokens.input_ids, torch.ones_like(mask))
    assert torch.equal(tower.encode(["a red circle"]), masked)
    assert not torch.allclose(masked, unmasked, atol=1e-3)


def test_a_long_prompt_is_read_in_chunks_as_if_each_were_alone(
    home: Path, tower: TextTower
) -> None:
    prompt = f"{LONG} {LONG}"
    words = prompt.split()
    chunks = [" ".join(words[i : i + 75]) for i in range(0, len(words), 75)]
    assert len(chunks) == 3
    alone = by_transformers(home, chunks).flatten(0, 1)[None]
    assert error(tower.encode([prompt]), alone) < 1e-5


def test_a_chunk_begins_with_the_token_that_no_longer_fits(
    tower: TextTower, recwarn: pytest.WarningsRecorder
) -> None:
    full, more = tower.encode([FULL]), tower.encode([f"{FULL} star"])
    assert (full.shape[1], more.shape[1]) == (77, 154)
    torch.testing.assert_close(more[:, :77], full, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(more[:, 77:], tower.encode(["star"]), atol=1e-5, rtol=1e-5)
    assert not recwarn.list


def test_a_small_weighted_piece_is_not_torn_between_chunks(tower: TextTower) -> None:
    front = "red " * 73
    for piece, sizes in (("blue " * 7, [73, 7]), ("blue " * 8, [75, 6]), ("blue " * 2, [75])):
        chunks = tower.chunks(pieces(f"{front}({piece}:1.3)"))
        assert [len(chunk) for chunk in chunks] == sizes
    moved = tower.encode([f"{front}(a large star:1)"])
    alone = tower.encode([front, "a large star"]).flatten(0, 1)[None]
    assert error(moved, alone) < 1e-5


def test_a_tokenizer_that_names_no_length_reads_as_many_as_the_network(
    home: Path, tower: TextTower, tmp_path: Path
) -> None:
    shutil.copytree(home, tmp_path / "copy")
    config = tmp_path / "copy" / "tokenizer" / "tokenizer_config.json"
    entries = json.loads(config.read_text())
    del entries["model_max_length"]
    config.write_text(json.dumps(entries))
    boundless = load_text_tower(tmp_path / "copy", Placement())
    assert boundless.tokenizer.model_max_length > 10**9
    assert torch.equal(boundless.encode([LONG]), tower.encode([LONG]))


def test_prompts_of_different_lengths_are_not_stacked(tower: TextTower) -> None:
    with pytest.raises(ValueError, match="got 77, 154; encode_each takes them all"):
        tower.encode(["a red circle", LONG])


@pytest.mark.parametrize(
    ("prompt", "weighting", "weight"),
    [
        ("a (large:1.3) red circle", "comfy", 1.3),
        ("a (large:0.4) red circle", "comfy", 0.4),
        ("a [large] red circle", "comfy", 1 / 1.1),
        ("a large++ red circle", "compel", 1.1**2),
        ("a (large)0.4 red circle", "compel", 0.4),
    ],
)
def test_a_weight_moves_its_token_away_from_the_empty_prompt_and_no_other(
    tower: TextTower, prompt: str, weighting: str, weight: float
) -> None:
    plain, empty = tower.encode(["a large red circle"]), tower.encode([""])
    features = tower.encode([prompt], weighting)
    place = torch.arange(77) == 2  # after the start and "a"
    assert torch.equal(features[:, ~place], plain[:, ~place])
    expected = torch.lerp(empty, plain, weight)[:, place]
    torch.testing.assert_close(features[:, place], expected, atol=1e-5, rtol=1e-5)
    assert (features - plain)[:, place].abs().max() > 0.01


def test_a_weight_of_one_is_none_and_of_zero_is_the_empty_prompt(tower: TextTower) -> None:
    plain, empty = tower.encode(["a red circle"]), tower.encode([""])
    assert torch.equal(tower.encode(["a (red:1) (circle:1.0)"]), plain)
    nothing = tower.encode(["(a red circle:0)"])
    assert torch.equal(nothing[:, 1:4], empty[:, 1:4])
    assert torch.equal(nothing[:, 4:], plain[:, 4:])


def test_a_weight_counts_in_its_own_chunk_alone(tower: TextTower) -> None:
    plain, empty = tower.encode([f"{FULL} a star"]), tower.encode([""])
    features = tower.encode([f"{FULL} a (star:1.5)"])
    place = torch.arange(154) == 77 + 2
    assert torch.equal(features[:, ~place], plain[:, ~place])
    expected = torch.lerp(empty[:, 2:3], plain[:, place], 1.5)
    torch.testing.assert_close(features[:, place], expected, atol=1e-5, rtol=1e-5)


def test_weights_of_a_neighbour_change_no_bit(tower: TextTower) -> None:
    alike = tower.encode(["a red circle", "a green star"])
    weighted = tower.encode(["a red circle", "a (green:1.4) star"])
    assert torch.equal(alike[0], weighted[0])
    assert not torch.equal(alike[1], weighted[1])


def test_signs_are_read_as_text_where_they_are_no_weights(home: Path, tower: TextTower) -> None:
    prompt = "a (red:1.3) circle"
    assert error(tower.encode([prompt], "none"), by_transformers(home, [prompt])) < 1e-5
    assert error(tower.encode([r"a \(red\)"]), by_transformers(home, ["a (red)"])) < 1e-5
    with pytest.raises(ValueError, match="one of comfy, compel, none, got 'magic'"):
        tower.encode([prompt], "magic")


def test_half_precision_stays_inside_the_tower(home: Path, tower: TextTower) -> None:
    half = load_text_tower(home, Placement(dtype=torch.bfloat16))
    for prompt in ("a red circle", "a (red:1.3) circle"):
        features = half.encode([prompt])
        assert features.dtype == torch.float32
        assert (features - tower.encode([prompt])).abs().max() < 0.2


def test_stages_take_features_from_elsewhere_of_any_length(tiny: Path, model: Wuerstchen) -> None:
    """As a library for prompts makes them, of the text tower and tokenizer in the same folder."""
    prompts = ["a red circle", "on a blue background"]
    chunks = by_transformers(tiny / "wuerstchen-prior", prompts)
    whole = chunks.flatten(0, 1)[None]
    seen = []
    for length in (1, 5, 77, 154):
        text = whole[:, :length].expand(2, -1, -1)
        latent = model.sample_semantic(
            text, generators([1, 2]), (128, 128), negative=torch.zeros_like(text[:1]), steps=3
        )
        vq = model.sample_vq(latent, text, generators([1, 2]), steps=2)
        assert vq.isfinite().all()
        seen.append(latent)
    gaps = [float((one - other).abs().max()) for one, other in pairwise(seen)]
    assert min(gaps) > 0.05


def test_a_chunk_that_a_prompt_does_not_need_would_change_its_picture(model: Wuerstchen) -> None:
    text, empty = (model.prior_text.encode([prompt]) for prompt in ("a red circle", ""))
    padded = torch.cat([text, empty], dim=1)
    one, other = (
        model.sample_semantic(part, generators([1]), (128, 128), steps=3, guidance=1)
        for part in (text, padded)
    )
    assert (one - other).abs().max() > 0.05

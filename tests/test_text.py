"""Text towers: shapes, padding, the mask, truncation."""

from pathlib import Path

import pytest
import torch

from wuerstchen.checkpoints import load_text_tower
from wuerstchen.placement import Placement
from wuerstchen.text import TextTower


@pytest.fixture(scope="module")
def tower(tiny: Path) -> TextTower:
    placement = Placement()
    return TextTower(*load_text_tower(tiny / "wuerstchen-prior", placement), placement)


def test_features_are_float32_of_all_tokens_with_the_padding(tower: TextTower) -> None:
    features = tower.encode(["a red circle", ""])
    assert features.shape == (2, 77, tower.width)
    assert features.dtype == torch.float32
    assert features.isfinite().all()


def test_a_prompt_has_the_same_features_in_any_company(tower: TextTower) -> None:
    together = tower.encode(["a red circle", "a large green star on a blue background"])
    torch.testing.assert_close(together[:1], tower.encode(["a red circle"]), atol=1e-5, rtol=1e-5)


def test_capitals_do_not_matter(tower: TextTower) -> None:
    assert torch.equal(tower.encode(["A Red CIRCLE"]), tower.encode(["a red circle"]))


def test_padding_attends_to_the_prompt_alone(tower: TextTower) -> None:
    tokens = tower.tokenizer(["a red circle"], padding="max_length", return_tensors="pt")
    assert tokens.attention_mask.sum() == 5
    with torch.no_grad():
        masked = tower.network(tokens.input_ids, tokens.attention_mask).last_hidden_state
        unmasked = tower.network(tokens.input_ids).last_hidden_state
    assert torch.equal(tower.encode(["a red circle"]), masked)
    assert not torch.allclose(masked, unmasked, atol=1e-3)


def test_what_is_cut_off_is_named_and_not_read(tower: TextTower) -> None:
    kept = "red " * 75
    with pytest.warns(UserWarning, match="tokens and the model reads 75; not read: 'green star'"):
        cut = tower.encode([kept + "green star"])
    assert torch.equal(cut, tower.encode([kept]))


def test_a_prompt_that_fits_gives_no_warning(
    tower: TextTower, recwarn: pytest.WarningsRecorder
) -> None:
    tower.encode(["red " * 75])
    assert not recwarn.list


def test_half_precision_stays_inside_the_tower(tiny: Path, tower: TextTower) -> None:
    placement = Placement(dtype=torch.bfloat16)
    half = TextTower(*load_text_tower(tiny / "wuerstchen-prior", placement), placement)
    features = half.encode(["a red circle"])
    assert features.dtype == torch.float32
    assert (features - tower.encode(["a red circle"])).abs().max() < 0.2

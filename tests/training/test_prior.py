"""What Stage C learns from: a stock of latents, and times that are mostly early."""

from pathlib import Path

import numpy as np
import pytest
import torch

from wuerstchen.training import prior
from wuerstchen.training.noising import early_times
from wuerstchen.training.prior import PriorTask, kept_stock

from .untrained import make_batches_small, prior_task, random_stock, stir


def test_the_stock_is_made_once_for_a_compressor(
    whole: PriorTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prior, "STOCK", 10)
    whole.decoder.networks.eval()
    first = kept_stock(whole.decoder, tmp_path)
    assert [tuple(z.shape) for z, _ in first] == [(6, 16, 6, 6), (2, 16, 6, 9), (2, 16, 9, 6)]
    with monkeypatch.context() as patched:
        patched.setattr(prior, "latents", lambda *_: pytest.fail("made again"))
        again = kept_stock(whole.decoder, tmp_path)
    for (z, scenes), (other, same) in zip(first, again, strict=True):
        assert torch.equal(z, other)
        assert scenes == same
    stir(whole.decoder.compressor)
    assert not torch.equal(kept_stock(whole.decoder, tmp_path)[0][0], first[0][0])


def test_without_a_caption_it_learns_what_it_says_with_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So nothing is left to learn where no picture has a caption."""
    make_batches_small(monkeypatch)
    whole = prior_task(random_stock())
    stir(whole.networks)
    whole.networks.eval()
    drawn = whole.draw(np.random.default_rng(0), 0.0)
    assert whole.losses(drawn, 0.0)["untold"] > 1e-6
    blank = drawn._replace(prompts=[""] * len(drawn.prompts))
    assert whole.losses(blank, 0.0)["untold"] < 1e-9


def test_most_times_are_early() -> None:
    times = early_times(10_000)
    assert 0 <= float(times.min()) <= float(times.max()) <= 1
    assert float(times.mean()) == pytest.approx(2 / 3, abs=0.02)

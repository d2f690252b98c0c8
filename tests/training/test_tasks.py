"""The task of each part: a step moves all that it trains, and what it draws needs no network."""

import pickle
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from wuerstchen.layers import ResBlock
from wuerstchen.training.__main__ import PLANS
from wuerstchen.training.loop import Run

from .untrained import QUIET, make_batches_small, stir, task


@pytest.mark.parametrize("name", PLANS)
def test_a_step_moves_all_that_is_trained(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a channel is zero all over the map, as many are after a while."""
    make_batches_small(monkeypatch)
    part = task(name)
    stir(part.networks)
    for block in part.networks.modules():
        if isinstance(block, ResBlock):
            nn.init.constant_(block.channelwise[0].bias[:1], -1e3)
    run = Run(part, QUIET, tmp_path)
    before = [parameter.detach().clone() for parameter in run.parameters]
    run.advance(part.draw(np.random.default_rng(0), 0.0))

    named = [(key, one) for key, one in part.networks.named_parameters() if one.requires_grad]
    assert run.skipped == 0
    for (key, parameter), old in zip(named, before, strict=True):
        if name in ("decoder", "stage_b") and key.startswith("tower.heads."):
            continue  # nothing is asked of the tower while it learns with Stage B
        assert parameter.grad is not None, key
        assert parameter.grad.any(), key
        assert parameter.isfinite().all(), key
        assert not torch.equal(parameter, old), key


class NoNetworks(pickle.Pickler):
    """Carries what is drawn with to another process, as on systems that start it afresh."""

    def reducer_override(self, thing: Any) -> Any:
        assert not isinstance(thing, nn.Module)
        return NotImplemented  # which tells pickle to go its own way


@pytest.mark.parametrize("name", PLANS)
def test_what_draws_takes_no_network_along(name: str) -> None:
    draw, taken = task(name).draw, BytesIO()
    NoNetworks(taken).dump(draw)
    drawn = pickle.loads(taken.getvalue())(np.random.default_rng(0), 0.0)
    assert type(drawn) is type(draw(np.random.default_rng(0), 0.0))

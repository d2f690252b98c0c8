"""Untrained networks to begin with, the same in every test."""

from collections.abc import Iterator

import pytest
import torch

from wuerstchen.training.prior import PriorTask

from .untrained import prior_task, stir


@pytest.fixture(autouse=True)
def one_start() -> Iterator[None]:
    """Every test starts from the same untrained weights."""
    torch.manual_seed(0)
    return


@pytest.fixture
def whole() -> PriorTask:
    """The task that has all networks in it, without a stock."""
    task = prior_task(stock=[])
    stir(task.decoder.stage_b)
    return task

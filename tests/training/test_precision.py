"""The table of what less precise numbers lose."""

import pytest

from wuerstchen.checkpoints.sources import MINI
from wuerstchen.training.precision import LESS, precision


def test_float32_loses_nothing_and_what_is_stored_in_less_loses_little() -> None:
    exact, *less = precision(str(MINI), prompts=4, device="cpu")
    assert (exact.lost, exact.error, exact.semantic, exact.grey) == (0, 0, 0, 0)
    assert [(loss.dtype, loss.quantize) for loss in less] == list(LESS)
    for loss in less:
        share = 0.51 if loss.quantize == "none" else 0.35
        assert loss.megabytes < share * exact.megabytes
        assert loss.right == pytest.approx(exact.right - loss.lost / 100)
        assert 0 < loss.semantic < 0.1
        assert 0 < loss.grey < 10

"""What is learnt from: windows around things, captions, and where errors weigh most."""

import numpy as np
import pytest
import torch

from wuerstchen.training.data import batch, captions, edge_weights
from wuerstchen.training.shapes import random_scene


def test_a_window_shows_something_of_its_thing() -> None:
    for seed in range(8):
        windows = batch(np.random.default_rng(seed), 8, crop=64)
        assert windows.pixels.shape == (8, 3, 64, 64)
        assert windows.things.flatten(1).any(dim=1).all()


def test_some_captions_are_dropped_for_guidance() -> None:
    rng = np.random.default_rng(0)
    scenes = [random_scene(rng) for _ in range(1000)]
    dropped = captions(scenes, rng, dropped=0.15).count("")
    assert dropped == pytest.approx(150, abs=40)
    assert all(captions(scenes, rng))


def test_outlines_weigh_most_and_plain_ground_one() -> None:
    things = torch.zeros(1, 1, 32, 32)
    things[..., 8:24, 8:24] = 1
    found = edge_weights(things, 4)[0, 0]
    assert found[0, 0] == 1  # ground
    assert found[3, 3] == 2  # inside
    assert min(found[1, 3], found[2, 3]) >= 5  # on either side of the outline

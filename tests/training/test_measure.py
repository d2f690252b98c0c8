"""Measuring how well a model obeys."""

import numpy as np

from wuerstchen.pipeline import Wuerstchen
from wuerstchen.training.measure import measure


def test_every_prompt_is_measured_with_a_seed_of_its_own() -> None:
    model = Wuerstchen.load(device="cpu", progress=False)
    *_, second = measure(model, prompts=2, size=(128, 128), seed=5)
    (wanted,) = model.paint(second.prompt, width=128, height=128, seed=6)
    assert np.array_equal(second.pixels, wanted)

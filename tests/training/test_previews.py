"""The colours of unfinished latents are read off them."""

import pytest
import torch

from wuerstchen.training.previews import read_colours


def test_colours_that_are_linear_in_a_latent_are_read_off_it() -> None:
    drawn = torch.Generator().manual_seed(0)
    latents, factors = torch.randn(3, 4, 8, 6, generator=drawn), torch.randn(4, 3, generator=drawn)
    bias = torch.tensor([0.1, -0.2, 0.3])
    colours = (latents.movedim(1, -1) @ factors + bias).movedim(-1, 1)
    found = read_colours(latents, colours.repeat_interleave(4, 2).repeat_interleave(4, 3))
    torch.testing.assert_close(torch.tensor(found["factors"]), factors, atol=1e-4, rtol=0)
    assert found["bias"] == pytest.approx(bias.tolist(), abs=1e-4)
    assert found["explained"] == 1

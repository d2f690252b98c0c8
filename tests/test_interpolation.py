"""Paths along the sphere: ends, lengths, angles, and stops interpolate."""

import pytest
import torch

from wuerstchen import interpolate, slerp
from wuerstchen.interpolation import frame_positions


def test_the_ends_are_the_given_ones_to_the_last_bit() -> None:
    a, b = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(slerp(a, b, 0), a)
    assert torch.equal(slerp(a, b, 1), b)


def test_lengths_and_angles_change_evenly() -> None:
    a, b = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 4.0])
    for share in (0.25, 0.5, 0.75):
        found = slerp(a, b, share)
        angle = torch.atan2(found[1], found[0])
        assert float(angle) == pytest.approx(share * torch.pi / 2, rel=1e-5)
        assert float(found.norm()) == pytest.approx(2 + 2 * share, rel=1e-5)


def test_noise_keeps_its_spread_where_a_straight_mix_would_lose_it() -> None:
    a, b = torch.randn(2, 1, 16, 24, 24, generator=torch.Generator().manual_seed(0))
    assert float(torch.lerp(a, b, 0.5).std()) < 0.75
    assert float(slerp(a, b, 0.5, dims=3).std()) == pytest.approx(1, abs=0.02)


def test_what_is_parallel_opposite_or_zero_stays_finite() -> None:
    a = torch.ones(3)
    assert torch.allclose(slerp(a, 2 * a, 0.5), 1.5 * a)
    for other in (-a, 0 * a):
        assert slerp(a, other, 0.3).isfinite().all()


def test_vectors_are_turned_one_by_one_in_the_last_dimensions() -> None:
    a, b = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(1))
    rows = torch.stack([slerp(x, y, 0.3) for x, y in zip(a, b, strict=True)])
    assert torch.allclose(slerp(a, b, 0.3), rows)
    assert not torch.allclose(slerp(a, b, 0.3, dims=2), rows)


def test_a_path_goes_through_every_stop() -> None:
    assert list(frame_positions(3, 5)) == [(0, 0), (0, 0.5), (1, 0), (1, 0.5), (1, 1)]
    stops = list(torch.randn(3, 1, 8, generator=torch.Generator().manual_seed(2)))
    frames = interpolate(stops, 5)
    assert frames.shape == (5, 8)
    for frame, stop in ((0, 0), (2, 1), (4, 2)):
        assert torch.equal(frames[frame], stops[stop][0])


def test_too_few_stops_or_frames_or_other_shapes_are_refused() -> None:
    for stops, frames in ((1, 5), (2, 1)):
        with pytest.raises(ValueError, match="at least 2 stops and 2 frames"):
            list(frame_positions(stops, frames))
    with pytest.raises(ValueError, match=r"of one shape, got \[1, 2\] and \[1, 3\]"):
        interpolate([torch.ones(1, 2), torch.ones(1, 3)], 2)

import numpy as np
import pytest
from PIL import Image, ImageFilter

from wuerstchen.training.judge import TRAITS, Score, agree, judge
from wuerstchen.training.shapes import COLOURS, Scene, Thing, draw, random_scene


def single_scene(rng):
    """Held-out scenes are single, and a fair half of the sample."""
    while True:
        scene = random_scene(rng, held_out=bool(rng.integers(2)))
        if len(scene.things) == 1:
            return scene


def blurred(picture, rng):
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(1.5)))


def noisy(picture, rng):
    return np.clip(picture + rng.normal(0, 8, picture.shape), 0, 255).astype(np.uint8)


def score(count, width, height, spoil=None):
    rng = np.random.default_rng(21)
    total = Score()
    for _ in range(count):
        scene = single_scene(rng)
        picture = draw(scene, width, height, rng)
        verdict = judge(spoil(picture, rng) if spoil else picture)
        total = total.plus(agree(scene, verdict))
    return total


@pytest.mark.parametrize(("width", "height"), [(256, 256), (384, 256), (256, 384)])
def test_drawn_pictures_are_read_without_error(width, height):
    assert set(score(50, width, height).rates().values()) == {1.0}


@pytest.mark.parametrize("spoil", [blurred, noisy])
def test_blurred_and_noisy_pictures_are_read_almost_without_error(spoil):
    assert min(score(50, 256, 256, spoil).rates().values()) >= 0.98


def test_an_empty_picture_has_no_object():
    picture = np.full((64, 64, 3), COLOURS["green"], np.uint8)
    assert judge(picture) is None
    picture[30:33, 30:33] = 0
    assert judge(picture) is None


def test_a_speckled_picture_is_read_without_failing():
    rng = np.random.default_rng(22)
    for _ in range(5):
        verdict = judge(rng.integers(0, 256, (64, 96, 3), dtype=np.uint8))
        assert verdict is None or verdict.fit < 0.7


def test_a_blob_is_not_excused():
    """Two overlapping bars at a slant: some shape is named, with a poor fit."""
    picture = np.full((128, 128, 3), COLOURS["white"], np.uint8)
    picture[30:60, 20:70] = COLOURS["blue"]
    picture[50:100, 60:80] = COLOURS["blue"]
    verdict = judge(picture)
    assert (verdict.colour, verdict.background) == ("blue", "white")
    assert verdict.fit < 0.7


def test_the_bigger_of_two_objects_is_described():
    rng = np.random.default_rng(23)
    large = Thing(colour="red", shape="ring", size="large", place="centre")
    picture = draw(Scene(things=(large,), background="white"), 256, 256, rng)
    picture[:30, :30] = COLOURS["green"]
    verdict = judge(picture)
    assert (verdict.colour, verdict.shape, verdict.size) == ("red", "ring", "large")


def test_a_missing_object_disagrees_in_everything():
    scene = single_scene(np.random.default_rng(24))
    assert agree(scene, None) == dict.fromkeys(TRAITS, False)


def test_a_score_counts_each_trait_alone():
    agreement = dict.fromkeys(TRAITS, True)
    total = Score().plus(agreement).plus(agreement | {"place": False})
    assert (total.pictures, total.place, total.everything, total.colour) == (2, 1, 1, 2)
    assert total.rates()["place"] == 0.5


def test_an_array_that_is_no_picture_is_refused():
    with pytest.raises(ValueError, match=r"must be \[H, W, 3\] .* got \[3, 64, 64\]"):
        judge(np.zeros((3, 64, 64), np.uint8))

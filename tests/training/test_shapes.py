import re

import numpy as np
import pytest

from wuerstchen.training.shapes import (
    COLOURS,
    HELD_OUT,
    OUTLINES,
    PLACES,
    SHAPES,
    SIZES,
    Scene,
    Thing,
    coverage,
    draw,
    random_scene,
)
from wuerstchen.training.wording import VOCABULARY, caption

WORDS_OF_SIZE = {"small": {"small", "little", "tiny"}, "large": {"large", "big"}}
WORDS_OF_PLACE = {place: {place} for place in PLACES[:4]} | {
    "centre": {"centre", "center", "middle"}
}


def thing(colour="red", shape="circle", size="large", place="centre"):
    return Thing(colour=colour, shape=shape, size=size, place=place)


def scene(*things, background="blue"):
    return Scene(things=things, background=background)


def words(text):
    return re.findall("[a-z]+", text.lower())


def named(text, table):
    """Which keys of a word table the text names."""
    return {key for key, synonyms in table.items() if synonyms & set(words(text))}


def is_held_out(one):
    return any((t.colour, t.shape, one.background) in HELD_OUT for t in one.things)


def scenes_and_captions(count):
    rng = np.random.default_rng(11)
    for index in range(count):
        one = random_scene(rng, held_out=index % 5 == 0)
        yield one, caption(one, rng)


def test_training_never_shows_a_held_out_combination():
    rng = np.random.default_rng(1)
    scenes = [random_scene(rng) for _ in range(4000)]
    assert not any(is_held_out(s) for s in scenes)
    assert 0.2 < sum(len(s.things) == 2 for s in scenes) / len(scenes) < 0.3


def test_held_out_scenes_show_one_held_out_thing_and_reach_all_of_them():
    rng = np.random.default_rng(2)
    scenes = [random_scene(rng, held_out=True) for _ in range(1500)]
    assert all(is_held_out(s) and len(s.things) == 1 for s in scenes)
    seen = {(s.things[0].colour, s.things[0].shape, s.background) for s in scenes}
    assert seen == HELD_OUT


def test_training_shows_every_pair_of_attributes():
    rng = np.random.default_rng(3)
    scenes = [random_scene(rng) for _ in range(4000)]
    seen = [(t.colour, t.shape, s.background) for s in scenes for t in s.things]
    assert len({(c, s) for c, s, _ in seen}) == len(COLOURS) * len(SHAPES)
    assert len({(s, b) for _, s, b in seen}) == len(COLOURS) * len(SHAPES)
    assert len({(c, b) for c, _, b in seen}) == len(COLOURS) * (len(COLOURS) - 1)


def test_a_sixth_is_held_out_evenly():
    assert len(HELD_OUT) == 56
    for position, names, low, high in ((0, COLOURS, 7, 7), (1, SHAPES, 8, 12), (2, COLOURS, 7, 7)):
        counts = [sum(combination[position] == name for combination in HELD_OUT) for name in names]
        assert low <= min(counts)
        assert max(counts) <= high


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: thing(colour="pink"), "colour must be one of red, .* got 'pink'"),
        (lambda: thing(shape="blob"), "shape must be one of"),
        (lambda: thing(size="huge"), "size must be one of"),
        (lambda: thing(place="center"), "place must be one of .* got 'center'"),
        (lambda: scene(thing(), background="grey"), "background must be one of"),
        (lambda: scene(thing(), background="red"), "differ from the background"),
        (lambda: scene(), "1 or 2 things, got 0"),
        (
            lambda: scene(thing(size="small", place="left"), thing(size="small", place="top")),
            "left and right or top and bottom, got left and top",
        ),
        (
            lambda: scene(thing(size="small", place="left"), thing("green", place="right")),
            "must both be small, got small and large",
        ),
        (
            lambda: scene(thing(size="small", place="left"), thing(size="small", place="right")),
            "must differ in colour or shape",
        ),
    ],
)
def test_an_invalid_scene_says_what_would_be_right(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_captions_name_all_that_is_not_default_and_nothing_false():
    left_out = {"size": 0, "place": 0}
    for s, text in scenes_and_captions(3000):
        things = s.things
        assert {w for w in words(text) if w in COLOURS} == {t.colour for t in things} | {
            s.background
        }
        assert sorted(w for w in words(text) if w in SHAPES) == sorted(t.shape for t in things)
        sizes, places = named(text, WORDS_OF_SIZE), named(text, WORDS_OF_PLACE)
        assert sizes <= {t.size for t in things}
        assert places <= {t.place for t in things}
        if len(things) == 2:
            assert len(places) == 2
            continue
        assert sizes or things[0].size == "large", text
        assert places or things[0].place == "centre", text
        left_out["size"] += not sizes
        left_out["place"] += not places
    assert min(left_out.values()) > 100


def test_captions_of_two_things_keep_each_thing_with_its_place():
    for s, text in scenes_and_captions(1500):
        if len(s.things) == 2:
            shapes = sorted(s.things, key=lambda t: words(text).index(t.shape))
            if shapes[0].shape != shapes[1].shape:
                order = [words(text).index(t.place) for t in shapes]
                assert order == sorted(order), text


def test_captions_have_the_right_articles_and_tidy_punctuation():
    for _, text in scenes_and_captions(3000):
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]|\s\s|\s[,.]|,,|^\W|[, ]$", text.lower()), (
            text
        )
        assert text[1:] == text[1:].lower()


def test_captions_are_varied():
    rng = np.random.default_rng(4)
    one = scene(thing(size="small", place="left"))
    assert len({caption(one, rng) for _ in range(1000)}) > 300


def test_the_vocabulary_is_exactly_what_captions_use():
    seen = {w for _, text in scenes_and_captions(5000) for w in words(text)}
    assert seen == set(VOCABULARY)
    assert list(VOCABULARY) == sorted(VOCABULARY)


@pytest.mark.parametrize(("width", "height"), [(256, 256), (384, 256), (86, 128), (16, 16)])
def test_drawings_have_the_exact_size_and_a_free_edge(width, height):
    rng = np.random.default_rng(5)
    for shape in SHAPES:
        for size in SIZES:
            for place in PLACES:
                picture = draw(scene(thing("red", shape, size, place)), width, height, rng)
                assert picture.shape == (height, width, 3)
                assert picture.dtype == np.uint8
                changed = (picture != np.array(COLOURS["blue"])).any(axis=2)
                assert changed.any()
                free = int(0.02 * min(width, height))
                inside = changed[free : height - free, free : width - free]
                assert changed.sum() == inside.sum()


def test_edges_are_soft_and_areas_are_flat():
    picture = draw(scene(thing()), 128, 128, np.random.default_rng(6)).reshape(-1, 3)
    shades = len(np.unique(picture, axis=0))
    flat = [(picture == np.array(COLOURS[name])).all(axis=1).mean() for name in ("red", "blue")]
    assert shades > 10
    assert sum(flat) > 0.95


def test_coverage_is_centred_and_has_the_area_of_the_shape():
    """Off by no more than the quarter pixel of the supersampling."""
    for shape in SHAPES:
        mask = coverage(shape, 60, 80, 80, 160, 160)
        assert np.abs(mask - mask[:, ::-1]).max() < 0.3
        if shape in OUTLINES:
            x, y = np.array(OUTLINES[shape]).T
            area = abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2
            assert mask.sum() == pytest.approx(area * 60**2, rel=0.02)


def test_drawing_depends_on_the_seed_alone():
    one = scene(thing(shape="star"))
    first, again, other = (draw(one, 96, 64, np.random.default_rng(seed)) for seed in (7, 7, 8))
    assert (first == again).all()
    assert (first != other).any()


def test_a_picture_too_small_to_draw_is_refused():
    with pytest.raises(ValueError, match="at least 16 pixels, got 8 x 64"):
        draw(scene(thing()), 8, 64, np.random.default_rng(0))

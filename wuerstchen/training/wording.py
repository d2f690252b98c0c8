"""A scene in words: many English wordings, and the words that they are made of.

What a caption of a single thing leaves out has its default: the place is the centre, the size is
large.
"""

import re
from collections.abc import Iterable

import numpy as np

from .shapes import COLOURS, SHAPES, Scene, Thing, pick

SIZE_WORDS = {"small": ("small", "little", "tiny"), "large": ("large", "big")}
PLACE_WORDS = {
    "left": ("on the left", "at the left", "on the left side", "to the left"),
    "right": ("on the right", "at the right", "on the right side", "to the right"),
    "top": ("at the top", "near the top", "at the top of the picture"),
    "bottom": ("at the bottom", "near the bottom", "at the bottom of the picture"),
    "centre": ("in the centre", "in the center", "in the middle", "at the centre"),
}
OPENINGS = ("a picture of", "an image of", "a drawing of", "draw", "show", "paint", "there is", "")
ONE_THING = (
    "{opening} a {thing} {place} on a {background} background",
    "{opening} a {thing} on a {background} background, {place}",
    "{opening} a {thing} {place}, {background} background",
    "{opening} a {thing} {place}, the background is {background}",
    "{opening} a {thing} {place} in front of a {background} background",
    "{opening} a {background} background with a {thing} {place}",
    "on a {background} background, a {thing} {place}",
    "on a {background} background there is a {thing} {place}",
    "{background} background, {thing} {place}",
    "{thing} {place}, {background} background",
    "{thing} {place} on {background}",
    "{place}, a {thing} on a {background} background",
    "{opening} one {size} {shape} {place}, coloured {colour}, on a {background} background",
    "the {size} {shape} {place} is {colour} and the background is {background}",
    "the background is {background}, the {size} {shape} {place} is {colour}",
)
TWO_THINGS = (
    "{opening} a {thing1} {place1} and a {thing2} {place2} on a {background} background",
    "{opening} a {thing1} {place1} and a {thing2} {place2}, {background} background",
    "{opening} a {thing1} {place1} and a {thing2} {place2}, the background is {background}",
    "on a {background} background, a {thing1} {place1} and a {thing2} {place2}",
    "{place1} a {thing1}, {place2} a {thing2}, on a {background} background",
    "{thing1} {place1}, {thing2} {place2}, {background} background",
    "{opening} two shapes on a {background} background, a {thing1} {place1}, a {thing2} {place2}",
    "the {shape1} {place1} is {colour1}, the {shape2} {place2} is {colour2}, on {background}",
)


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """Return the scene in words, in one of many ways.

    Colour, shape and background are always named. A large size and the place in the centre are
    left out half of the time. Two things have both places named and, being small, not always
    their size.
    """
    things = scene.things
    if len(things) == 1:
        slots = _slots(things[0], rng, "")
        text = pick(rng, ONE_THING)
    else:
        order = rng.permutation(2)
        slots = _slots(things[order[0]], rng, "1") | _slots(things[order[1]], rng, "2")
        text = pick(rng, TWO_THINGS)
    text = _tidy(text.format(opening=pick(rng, OPENINGS), background=scene.background, **slots))
    text = text.capitalize() if rng.random() < 0.4 else text
    return text + "." if rng.random() < 0.25 else text


def _slots(thing: Thing, rng: np.random.Generator, suffix: str) -> dict[str, str]:
    size, place = pick(rng, SIZE_WORDS[thing.size]), pick(rng, PLACE_WORDS[thing.place])
    size_is_clear = thing.size == "large" or suffix != ""  # two things are always small
    size = "" if size_is_clear and rng.random() < 0.5 else size
    place = "" if thing.place == "centre" and rng.random() < 0.5 else place
    words = {"size": size, "place": place, "colour": thing.colour, "shape": thing.shape}
    words["thing"] = f"{size} {thing.colour} {thing.shape}"
    return {name + suffix: word for name, word in words.items()}


def _tidy(text: str) -> str:
    """Return `text` without the gaps that empty slots leave, and with "an" before a vowel."""
    text = re.sub(r"\s*,[\s,]*", ", ", " ".join(text.split())).strip(" ,")
    return re.sub(r"\ba(?= [aeiou])", "an", text)


def _words(texts: Iterable[str]) -> set[str]:
    return {word for text in texts for word in re.findall("[a-z]+", re.sub(r"{.*?}", "", text))}


_PHRASES = [*SIZE_WORDS.values(), *PLACE_WORDS.values(), ONE_THING, TWO_THINGS, OPENINGS]
VOCABULARY: tuple[str, ...] = tuple(
    sorted(_words([*COLOURS, *SHAPES, "an"]).union(*map(_words, _PHRASES)))
)

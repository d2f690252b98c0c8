"""Weights in prompts: what is a weight, what is text, how weights multiply."""

import random

import pytest

from wuerstchen.settings import WEIGHTINGS
from wuerstchen.weighting import SYNTAXES, Piece, pieces

PLAIN = [
    "a large red circle on a blue background",
    "",
    " ",
    "  two  spaces, a comma; a colon: and 1.5 \n lines",
    "hot-dog, well-known, 3 + 4 - 2, a -- b, C:\\temp\\new, ünïcödé 日本語 🙂",
]
UP, DOWN = 1.1, 0.9

COMFY = {
    "(red)": [("red", 1.1)],
    "(red:1.3)": [("red", 1.3)],
    "(a red circle:0.5)": [("a red circle", 0.5)],
    "( red : 1.3 )": [(" red ", 1.3)],
    "(red:2)": [("red", 2.0)],
    "(red:.5)": [("red", 0.5)],
    "(red:-1)": [("red", -1.0)],
    "(red:0)": [("red", 0.0)],
    "[red]": [("red", 1 / 1.1)],
    "a (large:1.3) red [circle]": [
        ("a ", 1.0),
        ("large", 1.3),
        (" red ", 1.0),
        ("circle", 1 / 1.1),
    ],
    "(red)(blue)": [("red", 1.1), ("blue", 1.1)],
    "(red)ish": [("red", 1.1), ("ish", 1.0)],
    "(3:4:1.5)": [("3:4", 1.5)],
    "()": [("", 1.0)],
    "a () b": [("a ", 1.0), (" b", 1.0)],
}
COMFY_NESTED = {
    "((red))": [("red", UP * UP)],
    "(((red)))": [("red", UP * UP * UP)],
    "[[red]]": [("red", 1 / UP / UP)],
    "([red])": [("red", 1.0)],
    "(a (red:1.5) circle)": [("a ", 1.1), ("red", 1.5), (" circle", 1.1)],
    "(a (red:1.5) circle:2)": [("a ", 2.0), ("red", 1.5), (" circle", 2.0)],
    "((red):1.3)": [("red", 1.1 * 1.3)],
    "([red] circle:1.1)": [("red", 1.0), (" circle", 1.1)],
}
COMFY_ESCAPED = {
    r"\(red\)": [("(red)", 1.0)],
    r"\[red\]": [("[red]", 1.0)],
    r"(a \(red\) circle:1.3)": [("a (red) circle", 1.3)],
    r"(red\))": [("red)", 1.1)],
    r"\((red)": [("(", 1.0), ("red", 1.1)],
    r"(red \[:1.2)": [("red [", 1.2)],
    r"\\(red)": [("\\(red)", 1.0)],
    r"(red\)": [("(red)", 1.0)],
    "red\\": [("red\\", 1.0)],
}
COMFY_MALFORMED = {
    "(red": [("(red", 1.0)],
    "red)": [("red)", 1.0)],
    ")red(": [(")red(", 1.0)],
    "[red": [("[red", 1.0)],
    "a smile :) (red)": [("a smile :) ", 1.0), ("red", 1.1)],
    "((red)": [("(", 1.0), ("red", 1.1)],
    "(red))": [("red", 1.1), (")", 1.0)],
    "(a [red) circle]": [("a [red", 1.1), (" circle]", 1.0)],
    "[a (red] circle)": [("a (red", 1 / 1.1), (" circle)", 1.0)],
    "(red]": [("(red]", 1.0)],
    "(red:abc)": [("red:abc", 1.1)],
    "(red:)": [("red:", 1.1)],
    "(red:1.2.3)": [("red:1.2.3", 1.1)],
    "(red:inf)": [("red:inf", 1.1)],
    "(red:nan)": [("red:nan", 1.1)],
    "(:1.3)": [(":1.3", 1.1)],
    "(:)": [(":", 1.1)],
    "(a (red:1.5) circle:abc)": [("a ", 1.1), ("red", 1.5), (" circle:abc", 1.1)],
    "[red:0.5]": [("red:0.5", 1 / 1.1)],
}
COMPEL = {
    "red+": [("red", 1.1)],
    "red-": [("red", 0.9)],
    "a red++ circle": [("a ", 1.0), ("red", UP**2), (" circle", 1.0)],
    "a red--, circle": [("a ", 1.0), ("red", DOWN**2), (", circle", 1.0)],
    "(a red circle)1.2": [("a red circle", 1.2)],
    "(a red circle)++": [("a red circle", UP**2)],
    "(a red circle)---": [("a red circle", DOWN**3)],
    "(red)2": [("red", 2.0)],
    "(red).5": [("red", 0.5)],
    "(red)1.2. A star": [("red", 1.2), (". A star", 1.0)],
    "(red)0, a star": [("red", 0.0), (", a star", 1.0)],
    "(flowers)--- flames+++": [("flowers", DOWN**3), (" ", 1.0), ("flames", UP**3)],
    "hot-dog+": [("hot-dog", 1.1)],
}
COMPEL_NESTED = {
    "(flames (trees)1.5)2.0": [("flames ", 2.0), ("trees", 3.0)],
    "((red)+ circle)+": [("red", UP * UP), (" circle", 1.1)],
    "(a red++ circle)0.5": [("a ", 0.5), ("red", 0.5 * UP**2), (" circle", 0.5)],
    "(red-)+": [("red", 1.1 * 0.9)],
}
COMPEL_ESCAPED = {
    r"\(red\)++": [("(red)", UP**2)],
    r"(a \(red\) circle)1.2": [("a (red) circle", 1.2)],
    r"C\+\+": [("C++", 1.0)],
    r"C\+\+++": [("C++", UP**2)],
    r"red\-": [("red-", 1.0)],
    "(red\\": [("(red\\", 1.0)],
}
COMPEL_MALFORMED = {
    "(red": [("(red", 1.0)],
    "(red++": [("(", 1.0), ("red", UP**2)],
    "red)1.2": [("red)1.2", 1.0)],
    "a badly formed +test prompt": [("a badly formed +test prompt", 1.0)],
    "(page)3rd": [("(page)3rd", 1.0)],
    "(semi)-circle": [("(semi)-circle", 1.0)],
    "x++y": [("x++y", 1.0)],
    "red+-": [("red+-", 1.0)],
    "++ -- +": [("++ -- +", 1.0)],
    "(a red) circle": [("(a red) circle", 1.0)],
    '("red", "blue").and()': [('("red", "blue").and()', 1.0)],
    "(red:1.3)": [("(red:1.3)", 1.0)],
}
TABLES = {
    "comfy": {**COMFY, **COMFY_NESTED, **COMFY_ESCAPED, **COMFY_MALFORMED},
    "compel": {**COMPEL, **COMPEL_NESTED, **COMPEL_ESCAPED, **COMPEL_MALFORMED},
}


@pytest.mark.parametrize(
    ("syntax", "prompt"), [(syntax, prompt) for syntax in TABLES for prompt in TABLES[syntax]]
)
def test_a_prompt_is_read_as_its_table_says(syntax: str, prompt: str) -> None:
    found, expected = pieces(prompt, syntax), TABLES[syntax][prompt]
    assert [text for text, _ in found] == [text for text, _ in expected]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in expected])


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("prompt", PLAIN)
def test_a_prompt_without_weights_is_one_piece_as_it_was(syntax: str, prompt: str) -> None:
    assert pieces(prompt, syntax) == [Piece(prompt, 1.0)]


@pytest.mark.parametrize("prompt", [*TABLES["comfy"], *TABLES["compel"]])
def test_without_a_syntax_every_sign_is_text(prompt: str) -> None:
    assert pieces(prompt, "none") == [Piece(prompt, 1.0)]


def test_comfy_is_the_syntax_when_none_is_named() -> None:
    assert pieces("a (red:1.3) star++") == pieces("a (red:1.3) star++", "comfy")


def test_an_unknown_syntax_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ValueError, match="one of comfy, compel, none, got 'a1111'"):
        pieces("red", "a1111")


def written(piece: Piece, syntax: str) -> str:
    """A piece with its weight, as a user writes it."""
    signs = r"\()[]" if syntax == "comfy" else r"\()+-"
    text = "".join(f"\\{c}" if c in signs[1:] else c for c in piece.text)
    return f"({text}:{piece.weight})" if syntax == "comfy" else f"({text}){piece.weight}"


@pytest.mark.parametrize("syntax", ["comfy", "compel"])
def test_pieces_that_are_written_down_are_read_again(syntax: str) -> None:
    random.seed(0)
    for _ in range(200):
        texts = ("".join(random.choices("ab :()[]+-.,1", k=random.randint(1, 8))) for _ in range(4))
        wrote = [Piece(text, round(random.uniform(0, 2), 3)) for text in texts]
        prompt = " ".join(written(piece, syntax) for piece in wrote)
        assert pieces(prompt, syntax)[::2] == wrote


@pytest.mark.parametrize("syntax", ["comfy", "compel"])
def test_no_prompt_is_wrong_and_no_word_is_lost(syntax: str) -> None:
    random.seed(1)
    for _ in range(2000):
        prompt = "".join(random.choices("abc()[]:+-\\ .1\n\"',", k=random.randint(0, 24)))
        found = pieces(prompt, syntax)
        assert found
        assert [c for c in prompt if c in "abc"] == [c for p in found for c in p.text if c in "abc"]


@pytest.mark.parametrize("syntax", ["comfy", "compel"])
@pytest.mark.parametrize("signs", ["(", ")", "()", "([", "+", "-", "a+", "\\", "(a", "1:", "a+ "])
def test_signs_without_end_are_no_error(syntax: str, signs: str) -> None:
    prompt = signs * 3000
    assert pieces(prompt, syntax)
    assert pieces(f"{'(' * 3000}a{')' * 3000}", syntax)[0].text.strip("()") == "a"


def test_every_syntax_that_a_setting_may_name_is_there() -> None:
    assert tuple(SYNTAXES) == WEIGHTINGS

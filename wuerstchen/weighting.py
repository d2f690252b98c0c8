r"""Prompt -> pieces of text, each with a weight: how much its words count.

    comfy    (word) weighs 1.1, (word:1.3) weighs 1.3, [word] weighs 1 / 1.1
    compel   word++ weighs 1.1 per plus, word-- 0.9 per minus, (some words)1.2, (some words)++
    none     all is text

The first is ComfyUI's, with AUTOMATIC1111's square brackets; the second is Compel's. Weights within
weights multiply, but in comfy a number replaces those around it. A backslash makes a sign text:
\( \) \[ \] or \( \) \+ \-. Whatever is not a weight is text as well, so that no prompt is wrong: a
bracket without its partner, a colon without a number behind it, in compel also brackets without a
weight.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from .checks import check_choice

STEP_UP, STEP_DOWN = 1.1, 0.9
ROUND, SQUARE = {")": "("}, {"]": "["}

COMFY = re.compile(r"\\[()\[\]]|[()\[\]]|[^()\[\]\\]+|\\")
COMFY_ESCAPE = re.compile(r"\\([()\[\]])")

COMPEL = re.compile(
    r"""(?P<word> (?:\\[()+\-]|[^\s()\\",])*? (?:\\[()+\-]|[^\s()\\",+\-]) )
        (?P<signs> \+{1,99}|-{1,99} ) (?=[\s()",.;:!?]|\Z)
    | \\[()+\-]
    | \(
    | \) (?: (?:\+{1,99}|-{1,99}) (?![\w+\-]) | (?:\d+(?:\.\d+)?|\.\d+) (?!\w) )?
    | [^\s()\\",]+
    | .""",
    re.VERBOSE | re.DOTALL,
)
COMPEL_ESCAPE = re.compile(r"\\([()+\-])")


class Piece(NamedTuple):
    """Text and its weight; 1 is none."""

    text: str
    weight: float


# text; or from the weight outside a bracket to that inside; or None, which closes the bracket
Mark = str | Callable[[float], float] | None


def pieces(prompt: str, syntax: str = "comfy") -> list[Piece]:
    """Return the pieces of a prompt, at least one.

    Args:
        prompt: any text; without weights it comes back as one piece.
        syntax: one of `SYNTAXES`.

    Raises:
        ValueError: if the syntax is not known.
    """
    check_choice("weighting", syntax, list(SYNTAXES))
    found, text, weights = [], "", [1.0]
    for mark in SYNTAXES[syntax](prompt):
        if isinstance(mark, str):
            text += mark
            continue
        if text:
            found.append(Piece(text, weights[-1]))
            text = ""
        if mark is None:
            weights.pop()
        else:
            weights.append(mark(weights[-1]))
    if text or not found:
        found.append(Piece(text, weights[-1]))
    return found


def comfy(prompt: str) -> Sequence[Mark]:
    """Return the marks of ComfyUI's syntax."""
    parts = COMFY.findall(prompt)
    marks: list[Mark] = [COMFY_ESCAPE.sub(r"\1", part) for part in parts]
    for start, end in pairs(parts, ROUND | SQUARE):
        marks[start] = times(STEP_UP if parts[start] == "(" else 1 / STEP_UP)
        marks[end] = None
        text, _, digits = parts[end - 1].rpartition(":")
        number, is_bare = finite(digits), not text and end - 1 == start + 1
        if parts[start] == "(" and text != parts[end - 1] and number is not None and not is_bare:
            marks[start], marks[end - 1] = exactly(number), text
    return marks


def compel(prompt: str) -> Sequence[Mark]:
    """Return the marks of Compel's syntax; `word++` is read as `(word)++`."""
    parts: list[str] = []
    for match in COMPEL.finditer(prompt):
        word, signs = match["word"], match["signs"]
        parts += ["(", word, f"){signs}"] if word else [match[0]]
    marks: list[Mark] = [COMPEL_ESCAPE.sub(r"\1", part) for part in parts]
    for start, end in pairs(parts, ROUND):
        weight = parts[end][1:]
        if weight:
            step = {"+": STEP_UP, "-": STEP_DOWN}.get(weight[0])
            marks[start] = times(float(weight) if step is None else step ** len(weight))
            marks[end] = None
    return marks


def none(prompt: str) -> Sequence[Mark]:
    """Return the prompt as the only mark."""
    return [prompt]


SYNTAXES: dict[str, Callable[[str], Sequence[Mark]]] = {
    "comfy": comfy,
    "compel": compel,
    "none": none,
}


def pairs(parts: Sequence[str], partners: Mapping[str, str]) -> Iterator[tuple[int, int]]:
    """Yield the places of the brackets that belong together, first character of a part each.

    A bracket closes the last open one of its kind; what was opened between the two stays open.

    Args:
        parts: of a prompt, none empty.
        partners: the opening bracket of each closing one.
    """
    waiting: dict[str, list[int]] = {opening: [] for opening in partners.values()}
    for end, part in enumerate(parts):
        if part[0] in waiting:
            waiting[part[0]].append(end)
        elif part[0] in partners and waiting[partners[part[0]]]:
            start = waiting[partners[part[0]]].pop()
            for others in waiting.values():
                while others and others[-1] > start:
                    others.pop()
            yield start, end


def times(factor: float) -> Callable[[float], float]:
    """Return the change that multiplies a weight."""
    return lambda outer: outer * factor


def exactly(weight: float) -> Callable[[float], float]:
    """Return the change that replaces a weight."""
    return lambda outer: weight


def finite(digits: str) -> float | None:
    """Return the finite number that is written in `digits`, or None."""
    try:
        number = float(digits)
    except ValueError:
        return None
    return number if math.isfinite(number) else None

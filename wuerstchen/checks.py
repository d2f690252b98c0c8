"""Refusals of single values, each in one line: the rule, and the value that breaks it."""

import math
import operator
from collections.abc import Sequence
from typing import Any

MOST = 2**31 - 1  # far beyond any use, and no library overflows


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Refuse a word that is not one of the choices.

    Raises:
        ValueError: with all that are.
    """
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def check_whole(name: str, value: Any, least: int, most: int = MOST) -> int:
    """Return a whole number of any type, NumPy's among them, as Python's.

    Raises:
        ValueError: with the rule and the value, if it is not whole or not in its range.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if not least <= number <= most:
        rule = f"at most {most}" if number > most else f"at least {least}"
        raise ValueError(f"{name} must be a whole number of {rule}, got {value!r}")
    return number


def check_number(name: str, value: Any, least: float, most: float) -> float:
    """Return a number of any type, NumPy's and PyTorch's among them, as Python's.

    Raises:
        ValueError: with the rule and the value, if it is no number or not in its range.
    """
    try:
        number = math.nan if isinstance(value, (str, bytes)) else float(value)
    except (TypeError, ValueError, RuntimeError):
        number = math.nan
    if not least <= number <= most:
        raise ValueError(f"{name} must be a number from {least:g} to {most:g}, got {value!r}")
    return number


def check_text(name: str, text: str) -> None:
    """Refuse what is no text, or has no UTF-8: words of a command line in another encoding.

    Raises:
        ValueError: with the text.
    """
    try:
        str.encode(text)
    except (TypeError, UnicodeEncodeError):
        raise ValueError(f"{name} must be text in UTF-8, got {text!r}") from None

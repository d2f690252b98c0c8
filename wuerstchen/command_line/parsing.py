"""Words of the command line -> values of all options, and where those come from.

An option counts as it is given; what is not given comes from --preset, then from the picture of
--from, then from the defaults. The word "none" is what an option is that nobody gives.
"""

import argparse
from collections.abc import Sequence
from typing import Any

from ..checks import check_choice
from ..settings import PRESETS
from .options import paint_parser
from .pictures import read_metadata

LISTS = ("wanted", "image", "lora")  # what is given takes the place of all that was
PAINTING_OVER = {"mask", "strength", "outpaint", "feather"}  # where nothing is if no image is


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Return the values of all options.

    Raises:
        ValueError: if the words are no valid options.
        OSError: if the picture of --from is not there.
    """
    parser = paint_parser()
    words, dashed = split_at_dashes(words)
    args = parser.parse_intermixed_args(words)
    before: dict[str, Any] = {}
    if args.repeat is not None:
        before |= read_metadata(args.repeat)
    if args.prompts is not None:  # a file of them takes the place of the picture's
        before = without(before, {"wanted", "interpolate"})
    if args.image == [None]:
        before = without(before, PAINTING_OVER)
    if args.preset is not None:
        check_choice("preset", args.preset, list(PRESETS))
        before |= PRESETS[args.preset]
    known = {name: value for name, value in before.items() if hasattr(args, name)}
    lists = {name: known.pop(name, []) for name in LISTS}
    args = parser.parse_intermixed_args(words, argparse.Namespace(**known))
    args.wanted += dashed
    for name, was in lists.items():
        setattr(args, name, [one for one in getattr(args, name) or was if one is not None])
    return args


def without(before: dict[str, Any], names: set[str]) -> dict[str, Any]:
    """Return values without those of some options."""
    return {name: before[name] for name in before.keys() - names}


def split_at_dashes(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the words before a "--", options among them, and those behind it, which are prompts."""
    at = words.index("--") if "--" in words else len(words)
    return list(words[:at]), list(words[at + 1 :])

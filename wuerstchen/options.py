"""The options of `wuerstchen PROMPT`, and where their values come from.

An option counts as it is given; what is not given comes from --preset, then from the picture of
--from, then from the defaults.
"""

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from . import __version__
from .pictures import facts_of
from .settings import PRESETS, SAMPLERS, Settings, check_choice, number, sides, whole

LISTS = ("wanted", "image", "lora")  # what is given takes the place of all that was

EXAMPLES = """\
examples:
  wuerstchen "a large red circle on a blue background"
  wuerstchen "a small green star" --width 384 --height 256 --seed 7 --output star.png
  wuerstchen "a red ring" "a blue ring" --batch 4 --grid --output rings/
  wuerstchen "a red circle" "a blue star" --interpolate 8 --output path/
  wuerstchen --from star.png --seed 8
  wuerstchen "a yellow cross" --image star.png --mask mask.png
  wuerstchen --prompts prompts.csv --output pictures/
  wuerstchen --model v2 "an astronaut on a horse, oil painting" --negative blurry --offload stage
  wuerstchen --model v2 --prior warp-ai/wuerstchen-prior-model-base "a lighthouse at dusk"

other commands:
  wuerstchen info SOURCE               what a checkpoint is
  wuerstchen convert SOURCE OUT        any checkpoint as one safetensors file
  wuerstchen -- info                   paints the word "info"
"""


class Parser(argparse.ArgumentParser):
    """A parser whose refusals are errors like any other."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see {self.prog} --help)")


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Return the values of all options.

    Raises:
        ValueError: if the words are no valid options.
        OSError: if the picture of --from is not there.
    """
    parser = paint_parser()
    words, dashed = parted(words)
    args = parser.parse_intermixed_args(words)
    before: dict[str, Any] = {}
    if args.repeat is not None:
        before |= facts_of(args.repeat)
    if args.preset is not None:
        check_choice("preset", args.preset, list(PRESETS))
        before |= PRESETS[args.preset]
    known = {name: value for name, value in before.items() if hasattr(args, name)}
    lists = {name: known.pop(name, []) for name in LISTS}
    args = parser.parse_intermixed_args(words, argparse.Namespace(**known))
    args.wanted += dashed
    for name, was in lists.items():
        setattr(args, name, getattr(args, name) or was)
    return args


def parted(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the words before a "--", options among them, and those behind it, which are prompts."""
    at = words.index("--") if "--" in words else len(words)
    return list(words[:at]), list(words[at + 1 :])


def paint_parser() -> argparse.ArgumentParser:
    """Return the parser of the main command."""
    parser = Parser(
        prog="wuerstchen",
        description="Paint a picture from a prompt with Würstchen.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    about = "what to paint; one picture (or batch) each"
    parser.add_argument("wanted", metavar="PROMPT", nargs="*", help=about)
    parser.add_argument("--version", action="version", version=f"wuerstchen {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    add_model_options(parser.add_argument_group("model"))
    add_prompt_options(parser.add_argument_group("prompts"))
    add_picture_options(parser.add_argument_group("picture"))
    add_image_options(parser.add_argument_group("painting over a picture"))
    add_quality_options(parser.add_argument_group("sampling"))
    add_guidance_options(parser.add_argument_group("guidance"))
    add_output_options(parser.add_argument_group("output"))
    return parser


def add_model_options(group: Any) -> None:
    """Add which model to use, and where and how it runs."""
    group.add_argument(
        "--model",
        default="mini",
        help="mini (bundled; the default), v2 (the published pair, 12 GB from the Hub), or a "
        "folder that holds wuerstchen-prior/ and wuerstchen/ in the published layout",
    )
    group.add_argument(
        "--prior",
        metavar="SOURCE",
        help="another Stage C: a folder, a Hub name, a file, or a blend of such: a*0.5+b*0.5",
    )
    group.add_argument("--decoder", metavar="SOURCE", help="another Stage B and Stage A, likewise")
    group.add_argument("--stage-a", metavar="SOURCE", help="another Stage A alone, likewise")
    group.add_argument(
        "--compressor",
        metavar="SOURCE",
        help="another network that reads the picture of --image (published: "
        "warp-ai/EfficientNetEncoder, which v2 takes by itself)",
    )
    group.add_argument(
        "--lora",
        metavar="SOURCE[:STRENGTH]",
        action="append",
        default=[],
        help="a LoRA for the prior, of any usual format; may be given several times",
    )
    group.add_argument(
        "--device",
        default="auto",
        help="auto (CUDA, then MPS, then CPU; the default), cpu, cuda, cuda:N or mps",
    )
    group.add_argument(
        "--dtype",
        default="auto",
        help="auto (fp32 on the CPU, else fp16; the default), fp32, fp16 or bf16",
    )
    group.add_argument(
        "--offload",
        default="none",
        help="none: weights stay on the device (the default); stage: only while their stage runs; "
        "layer: only while their layer runs",
    )
    group.add_argument(
        "--quantize",
        default="none",
        help="none (the default), or int8: Stages C and B in half the memory of fp16; pictures "
        "change a little",
    )
    group.add_argument(
        "--compile",
        action="store_true",
        help="have PyTorch compile the networks: the first picture waits for it (for CUDA; slower "
        "on a CPU)",
    )


def add_prompt_options(group: Any) -> None:
    """Add what is painted, beside the prompts themselves."""
    group.add_argument(
        "--prompts",
        metavar="FILE",
        type=local,
        help="paint the prompts of a .txt file (one a line), or a .csv or .jsonl file (a column "
        "or entry prompt, others named as the settings in a picture's file) into the folder "
        "--output; run again, it goes on where it was interrupted",
    )
    group.add_argument(
        "--negative", metavar="TEXT", default="", help="what the picture should not show"
    )
    group.add_argument(
        "--weighting",
        metavar="SYNTAX",
        default=Settings.weighting,
        help="how prompts weigh words: comfy, as in (word:1.3) and [word] (the default); compel, as "
        "in word++ and (two words)1.2; none",
    )
    group.add_argument(
        "--interpolate",
        metavar="N",
        type=said(whole),
        help="N pictures along the path from the first prompt (or --image) to the last",
    )
    group.add_argument(
        "--from",
        dest="repeat",
        metavar="PICTURE",
        type=local,
        help="repeat a picture that this command made, with whatever else is given changed",
    )


def add_picture_options(group: Any) -> None:
    """Add how many pictures, how large, and which."""
    side = "pixels, at least 128; default: the model's native size, or that of --image"
    group.add_argument("--width", metavar="N", type=said(whole), help=side)
    group.add_argument("--height", metavar="N", type=said(whole), help=side)
    group.add_argument(
        "--batch",
        metavar="N",
        type=said(whole),
        default=Settings.batch,
        help="pictures per prompt; picture i (from 0) is the one of seed + i; with --interpolate "
        "how many are painted at once (default: 1)",
    )
    group.add_argument(
        "--seed",
        metavar="N",
        type=said(whole),
        default=Settings.seed,
        help="of the first picture (default: 0)",
    )
    group.add_argument(
        "--decoder-seed",
        metavar="N",
        type=said(whole),
        help="a seed of its own for Stage B: other details of the same composition "
        "(default: Stage B goes on with Stage C's generator)",
    )
    group.add_argument(
        "--tile",
        metavar="N",
        type=said(whole),
        help="side in pixels of what Stages B and A do at once: less memory for large pictures "
        "(default: all at once)",
    )


def add_image_options(group: Any) -> None:
    """Add what is painted over."""
    group.add_argument(
        "--image",
        metavar="PICTURE",
        action="append",
        default=[],
        help="paint over this picture; with --interpolate one per stop",
    )
    group.add_argument(
        "--strength",
        metavar="X",
        type=said(number),
        help="how much is painted anew: 1 is all, 0 only decodes the picture's semantic latent "
        "(default: 0.7; with --mask or --outpaint 1)",
    )
    group.add_argument(
        "--mask",
        metavar="PICTURE",
        help="white where --image is painted anew, black where it stays; of its size",
    )
    group.add_argument(
        "--outpaint",
        metavar="L,T,R,B",
        type=said(sides),
        default=Settings.outpaint,
        help="pixels to add to --image left, above, right and below",
    )
    group.add_argument(
        "--feather",
        metavar="N",
        type=said(whole),
        default=Settings.feather,
        help="width in pixels of the soft edge inside the mask (default: 16)",
    )


def add_quality_options(group: Any) -> None:
    """Add how the two diffusion stages sample."""
    group.add_argument(
        "--preset",
        metavar="NAME",
        help="samplers and steps at once: fast, balanced or best; options you give override it",
    )
    group.add_argument(
        "--steps",
        metavar="N",
        type=said(whole),
        help="of Stage C, evenly spaced (default: the published list of 29)",
    )
    group.add_argument(
        "--sampler",
        metavar="NAME",
        default=Settings.sampler,
        help=f"of Stage C: {', '.join(SAMPLERS)} (default: ddpm)",
    )
    group.add_argument(
        "--decoder-steps",
        metavar="N",
        type=said(whole),
        default=Settings.decoder_steps,
        help="of Stage B (default: 12)",
    )
    group.add_argument(
        "--decoder-sampler",
        metavar="NAME",
        default=Settings.decoder_sampler,
        help="of Stage B, as --sampler (default: ddpm)",
    )


def add_guidance_options(group: Any) -> None:
    """Add how strongly the prompt binds."""
    rows = {
        "--cfg": (
            "guidance",
            "X",
            "guidance scale of Stage C; 1 or less turns it off (default: 4.0)",
        ),
        "--cfg-rescale": (
            "guidance_rescale",
            "X",
            "from 0 to 1: how far contrast is brought back to that without guidance (default: 0)",
        ),
        "--cfg-start": (
            "guidance_start",
            "T",
            "time (1 = noise, 0 = picture) from which Stage C is guided (default: 1)",
        ),
        "--cfg-end": (
            "guidance_end",
            "T",
            "time at which guidance ends; steps without it take half as long (default: 0)",
        ),
        "--decoder-cfg": ("decoder_guidance", "X", "of Stage B (default: 0.0, none)"),
    }
    for flag, (name, metavar, about) in rows.items():
        default = getattr(Settings, name)
        group.add_argument(
            flag, dest=name, metavar=metavar, type=said(number), default=default, help=about
        )


def add_output_options(group: Any) -> None:
    """Add where pictures go."""
    group.add_argument(
        "--output",
        metavar="PATH",
        type=local,
        default=Path("wuerstchen-output"),
        help="a folder, which gets 00000.png and so on, after the highest number in it, in the "
        "order of the prompts; or a name ending in .png for one picture, which replaces a file of "
        "that name (default: the folder wuerstchen-output)",
    )
    group.add_argument("--grid", action="store_true", help="also write all pictures on one sheet")


def local(text: str) -> Path:
    """Return the path that a word names; "~" is the home folder, behind a "=" as well."""
    return Path(os.path.expanduser(text))


def said(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return a reader of a word whose refusals the parser hands on."""

    def read_or_refuse(text: str) -> Any:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read_or_refuse

"""The options of `wuerstchen PROMPT`: their names, the kinds of their values, and their help."""

import argparse
import os
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

from .. import __version__
from ..settings import READERS, SAMPLERS, Settings, whole

NOTHING = (None, "", (0, 0, 0, 0))  # defaults that need no word

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
    other = {"metavar": "SOURCE", "type": optional(str)}
    group.add_argument(
        "--prior",
        **other,
        help='another Stage C: a folder, a Hub name, a file, or a blend of such: "A*0.5+B*0.5"',
    )
    group.add_argument("--decoder", **other, help="another Stage B and Stage A, likewise")
    group.add_argument("--stage-a", **other, help="another Stage A alone, likewise")
    group.add_argument(
        "--compressor",
        **other,
        help="another network that reads the picture of --image (published: "
        "warp-ai/EfficientNetEncoder, which v2 takes by itself)",
    )
    group.add_argument(
        "--lora",
        metavar="SOURCE[:STRENGTH]",
        type=optional(str),
        action="append",
        default=[],
        help="a LoRA for the prior, from kohya, diffusers, PEFT or OneTrainer; may be given several times",
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
        help="for CUDA: have PyTorch compile the networks and the device repeat their steps by "
        "itself; the first picture waits for it (slower on a CPU)",
    )


def add_prompt_options(group: Any) -> None:
    """Add what is painted, beside the prompts themselves."""
    group.add_argument(
        "--prompts",
        metavar="FILE",
        type=expanded_path,
        help="paint the prompts of a .txt file (one per line), or of a .csv or .jsonl file (a "
        "column or entry prompt, and any named like the fields of Settings, such as seed or "
        "guidance) into the folder --output; run again, it continues where it was interrupted",
    )
    settings = {
        "--negative TEXT": "what the picture should not show",
        "--weighting SYNTAX": "how prompts weigh words: comfy, as in (word:1.3) and [word]; compel, as "
        "in word++ and (two words)1.2; none",
    }
    add_settings(group, settings)
    group.add_argument(
        "--interpolate",
        metavar="N",
        type=argparse_type(whole),
        help="N pictures along the path from the first prompt (or --image) to the last",
    )
    group.add_argument(
        "--from",
        dest="repeat",
        metavar="PICTURE",
        type=expanded_path,
        help="repeat a picture from the settings in its file; options you give override them, and none "
        "takes one away: --lora none, --image none, --decoder-seed none",
    )


def add_picture_options(group: Any) -> None:
    """Add how many pictures, how large, and which."""
    side = "pixels, at least 128 (default: the model's size, or that of --image)"
    settings = {
        "--width N": side,
        "--height N": side,
        "--batch N": "pictures per prompt; picture i (counted from 0) is the one of seed + i; with "
        "--interpolate how many are painted at once",
        "--seed N": "of the first picture",
        "--decoder-seed N": "a seed of its own for Stage B: other details of the same composition "
        "(default: Stage B goes on with Stage C's generator)",
        "--tile N": "side in pixels, at least 256, of what Stages B and A do at once: less memory for large "
        "pictures (default: all at once)",
    }
    add_settings(group, settings)


def add_image_options(group: Any) -> None:
    """Add what is painted over."""
    group.add_argument(
        "--image",
        metavar="PICTURE",
        type=optional(str),
        action="append",
        default=[],
        help="paint over this picture; with --interpolate one per stop",
    )
    settings = {
        "--strength X": "how much is painted anew: 1 is all, 0 only decodes the picture's semantic "
        "latent (default: 0.7; with --mask or --outpaint 1)",
        "--mask PICTURE": "white where --image is painted anew, black where it stays; of its size",
        "--outpaint L,T,R,B": "pixels to add to --image left, above, right and below",
        "--feather N": "width in pixels of the soft edge inside the mask",
    }
    add_settings(group, settings)


def add_quality_options(group: Any) -> None:
    """Add how the two diffusion stages sample."""
    group.add_argument(
        "--preset",
        metavar="NAME",
        help="samplers, steps and the end of guidance at once: fast, balanced or best; options you "
        "give override it",
    )
    settings = {
        "--steps N": "of Stage C, evenly spaced (default: the published list of 29)",
        "--sampler NAME": f"of Stage C: {', '.join(SAMPLERS)}",
        "--decoder-steps N": "of Stage B",
        "--decoder-sampler NAME": "of Stage B, as --sampler",
    }
    add_settings(group, settings)


def add_guidance_options(group: Any) -> None:
    """Add how strongly the prompt binds."""
    settings = {
        "--cfg X": "guidance scale of Stage C; 1 or less turns it off",
        "--cfg-rescale X": "from 0 to 1: how far contrast is brought back to that without guidance",
        "--cfg-start T": "time (1 = noise, 0 = picture) from which Stage C is guided",
        "--cfg-end T": "time at which guidance ends; steps without it take half as long",
        "--decoder-cfg X": "of Stage B, as --cfg",
    }
    add_settings(group, settings)


def add_settings(group: Any, settings: dict[str, str]) -> None:
    """Add options that are settings: how to read them and their defaults is known from `Settings`.

    Args:
        group: where they stand in the help.
        settings: what each is for, by the option and a name for its value; the default is added,
            where there is one.
    """
    kinds = {field.name: field.type for field in fields(Settings)}
    for words, about in settings.items():
        flag, metavar = words.split()
        name = flag[2:].replace("-", "_").replace("cfg", "guidance")
        read, default = READERS.get(kinds[name], str), getattr(Settings, name)
        group.add_argument(
            flag,
            dest=name,
            metavar=metavar,
            type=argparse_type(read if default is not None else optional(read)),
            default=default,
            help=about if default in NOTHING else f"{about} (default: {default})",
        )


def add_output_options(group: Any) -> None:
    """Add where pictures go."""
    group.add_argument(
        "--output",
        metavar="PATH",
        type=expanded_path,
        default=Path("wuerstchen-output"),
        help="a folder, which gets 00000.png and so on, after the highest number in it, in the "
        "order of the prompts; or a name ending in .png for one picture, which replaces a file of "
        "that name (default: the folder wuerstchen-output)",
    )
    group.add_argument("--grid", action="store_true", help="also write all pictures on one sheet")


def expanded_path(text: str) -> Path:
    """Return the path that a word names; "~" is the home folder, behind a "=" as well."""
    return Path(os.path.expanduser(text))


def optional(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return a reader for which the word "none" is nothing."""
    return lambda text: None if text == "none" else read(text)


def argparse_type(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return a reader of a word whose refusals the parser hands on."""

    def read_or_refuse(text: str) -> Any:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read_or_refuse

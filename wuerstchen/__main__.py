"""The command line: `wuerstchen "PROMPT"`, `wuerstchen convert`, `wuerstchen info`.

What can be refused is refused before a model is loaded, in one line on stderr, with exit status 2.
"""

import io
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .command_line.options import Parser
from .command_line.painting import paint
from .command_line.parsing import parse

REFUSED, INTERRUPTED, TERMINATED = 2, 130, 143


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    It is 0, 2 for what is refused or cannot be done, 130 for Ctrl-C; --help, --version and SIGTERM
    (143) end the program.
    """
    if argv is None:
        start_program()
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        with warnings_in_one_line():
            command(words)
    except KeyboardInterrupt:
        print("wuerstchen: interrupted", file=sys.stderr)
        return INTERRUPTED
    except (ValueError, OSError, MemoryError) as error:
        if "--debug" in words:
            traceback.print_exc()
        print(f"wuerstchen: error: {message_of(error)}", file=sys.stderr)
        return REFUSED
    return 0


def start_program() -> None:
    """Let SIGTERM remove half-written files, and stdout print any file name."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def command(words: list[str]) -> None:
    """Run the subcommand that the first word names, else paint.

    Raises:
        ValueError: if the words do not go together.
    """
    if words in (["info"], ["convert"]):
        word = words[0]
        raise misplaced(word, "needs a SOURCE")
    if words[:1] == ["info"]:
        show_info(words)
    elif words[:1] == ["convert"]:
        convert_source(words)
    else:
        args = parse(words)
        if (
            args.wanted[:1] in (["info"], ["convert"])
            and len(args.wanted) > 1
            and "--" not in words
        ):
            word = args.wanted[0]
            raise misplaced(word, "comes first and has options of its own")
        for line in paint(args):
            print(line, flush=True)


def misplaced(word: str, rule: str) -> ValueError:
    """Return what to say of a subcommand that breaks a rule, and of a prompt that looks like one."""
    return ValueError(
        f"{word} {rule} (see wuerstchen {word} --help); to paint the word {word!r}, write "
        f"wuerstchen -- {word}"
    )


def show_info(words: list[str]) -> None:
    """Print what a source holds."""
    parser = Parser(prog="wuerstchen info", description="Show which networks a checkpoint holds.")
    add_source(parser, "a model: mini, v2 or a Hub name that was downloaded before")
    args = parser.parse_args(words[1:])
    from .checkpoints.info import describe

    for description in describe(args.source):
        values = {name: in_words(value) for name, value in asdict(description).items() if value}
        width = max(map(len, values))
        print("\n".join(f"{name:{width}}  {value}" for name, value in values.items()), end="\n\n")


def in_words(value: Any) -> str:
    """Return a value of a description as people read it."""
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value)


def convert_source(words: list[str]) -> None:
    """Write a source as one safetensors file and print its name."""
    parser = Parser(
        prog="wuerstchen convert", description="Write a checkpoint as one safetensors file."
    )
    add_source(parser, "a Hub name")
    parser.add_argument("out", metavar="OUT", type=Path, help="file to write, ends in .safetensors")
    kinds = ("stage_a", "stage_b", "stage_c", "compressor", "text_encoder")
    parser.add_argument("--dtype", choices=("fp32", "fp16", "bf16"), help="default: as it is")
    parser.add_argument("--kind", choices=kinds, help="which network, where SOURCE holds several")
    args = parser.parse_args(words[1:])
    from .checkpoints.converting import convert
    from .placement import DTYPES

    convert(args.source, args.out, args.dtype and DTYPES[args.dtype], args.kind)
    print(args.out)


def add_source(parser: Parser, hub_name: str) -> None:
    """Add what both subcommands take."""
    word = parser.prog.split()[-1]
    about = f"a file, a folder or {hub_name} (to paint the prompt {word!r}: wuerstchen -- {word})"
    parser.add_argument("source", metavar="SOURCE", help=about)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def message_of(error: Exception) -> str:
    """Return what an error says, on one line."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def warnings_in_one_line() -> Iterator[None]:
    """Show warnings on stderr in one line each, for the length of a run."""

    def show(message: Warning | str, *where: Any, **how: Any) -> None:
        print(f"wuerstchen: warning: {' '.join(str(message).split())}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


if __name__ == "__main__":
    sys.exit(main())

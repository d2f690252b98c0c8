"""Files of prompts.

    .txt    a prompt per line; empty lines are skipped
    .csv    a header, in it `prompt` and any settings; an empty cell is the setting's default;
            cells are separated by what is most frequent in the header: comma, semicolon or tab
    .jsonl  per line an object with the same names

Every picture of a file has its name before the first is painted.
"""

import codecs
import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .checks import check_text
from .settings import Settings


class Job(NamedTuple):
    """A picture to paint: the name of its file, its prompt and the settings for it alone."""

    file: str
    prompt: str
    settings: Settings


def read_jobs(path: Path, settings: Settings | Mapping[str, Any]) -> list[list[Job]]:
    """Return the pictures of each prompt in a file.

    Args:
        path: a .txt, .csv or .jsonl file, in UTF-8 or, with its mark, in UTF-16.
        settings: what counts where the file says nothing; or only some, by their names, which need
            not go together before the file adds to them.

    Raises:
        OSError: if the file cannot be read.
        ValueError: with the line, if it holds something else.
    """
    readers = {".txt": text_rows, ".csv": csv_rows, ".jsonl": json_rows}
    if path.suffix.lower() not in readers:
        raise ValueError(f"a prompt file must end in .txt, .csv or .jsonl, got {path}")
    others = vars(settings) if isinstance(settings, Settings) else settings
    jobs: list[list[Job]] = []
    first = 0
    try:
        for number, row in readers[path.suffix.lower()](decoded(path.read_bytes())):
            prompt, own = read_row(number, row, others)
            names = [f"{first + i:05d}.png" for i in range(own.batch)]
            jobs.append([Job(name, prompt, own.alone(i)) for i, name in enumerate(names)])
            first += own.batch
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path}: {error}") from error
    if not jobs:
        raise ValueError(f"{path}: expected at least one prompt, found none")
    return jobs


def decoded(data: bytes) -> str:
    """Return the text in a file.

    Raises:
        ValueError: if it is neither UTF-8 nor UTF-16 with its mark.
    """
    marked = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if marked else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"expected text in UTF-8, save it as such ({error})") from error
    return io.StringIO(text, newline=None).read()  # all ends of lines as "\n"


def text_rows(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number of each line with a prompt, and the prompt."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, {"prompt": line.strip()}


def csv_rows(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number of each row and its cells by the header's names.

    Raises:
        ValueError: with the line that cannot be read.
    """
    header = text.partition("\n")[0]
    reader = csv.DictReader(io.StringIO(text), delimiter=max(",;\t", key=header.count), strict=True)
    for row in reader:
        if not any(row.values()):  # as spreadsheets end their tables
            continue
        if None in row:
            raise ValueError(f"line {reader.line_num} has more cells than the header")
        yield reader.line_num, {n.strip().lower(): cell for n, cell in row.items() if n or cell}


def json_rows(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number of each line and its object.

    Raises:
        ValueError: with the line that cannot be read.
    """
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"line {number}: expected a JSON object, but {error}") from error
        yield number, row if isinstance(row, dict) else {"prompt": row}


def read_row(number: int, row: dict[str, Any], others: Mapping[str, Any]) -> tuple[str, Settings]:
    """Return prompt and settings of a row; `others` count where it says nothing.

    Raises:
        ValueError: with the line, if it has no prompt or something that is no setting.
    """
    prompt = row.pop("prompt", None)
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(f"line {number}: expected a prompt, found {prompt!r}")
    try:
        check_text("prompt", prompt)
        return prompt, Settings.from_words(row, **others)
    except ValueError as error:
        raise ValueError(f"line {number}: {error}") from error

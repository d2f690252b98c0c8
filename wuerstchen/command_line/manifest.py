"""The folder that a file of prompts fills: `manifest.jsonl` says which picture will be where.

It is written before the first picture, with a line for each: its prompt, settings and sources. Pictures
appear under their names when they are whole. So a run that was interrupted goes on with what is
missing, and is refused where it would mix with another's.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..prompt_files import Job
from ..writing import appearing
from .pictures import MANIFEST


def manifest(folder: Path, jobs: Sequence[Sequence[Job]], sources: dict[str, Any]) -> str:
    """Return what the manifest of a folder is to say, which may begin so already.

    More prompts may follow those of an earlier run.

    Raises:
        ValueError: if the folder is filled by other prompts or settings.
        OSError: if it cannot be read.
    """
    every = [job for row in jobs for job in row]
    lines = [
        json.dumps({"file": job.file, "prompt": job.prompt, **asdict(job.settings), **sources})
        for job in every
    ]
    path = folder / MANIFEST
    found = path.read_text("utf-8", errors="replace").splitlines() if path.exists() else []
    is_foreign = not all("file" in manifest_entry(line) for line in found)
    before = found if is_foreign or any(folder.glob("*.png")) else []
    if list(map(manifest_entry, before)) != list(map(manifest_entry, lines[: len(before)])):
        raise ValueError(
            f"{path} is of other prompts, settings or sources; give them as they were, to go on, "
            "or another --output"
        )
    taken = [job.file for job in every[len(before) :] if (folder / job.file).exists()]
    if taken:
        raise ValueError(f"{folder} holds {taken[0]} of another run; give another --output")
    return "\n".join(lines) + "\n"


def write_manifest(folder: Path, text: str) -> None:
    """Write the manifest of a folder.

    Raises:
        OSError: if it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with appearing(folder / MANIFEST) as part:
        part.write_text(text, encoding="utf-8")


def manifest_entry(line: str) -> dict[str, Any]:
    """Return what a line of a manifest says of a picture, but for the version; {} of any other line."""
    try:
        entries = dict(json.loads(line))
    except (TypeError, ValueError, RecursionError):
        return {}
    return {"quantize": "none", **entries, "version": None}

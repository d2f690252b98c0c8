"""Programs in processes of their own, which find the package where it lies."""

import os
import subprocess
import sys
from pathlib import Path


def surroundings(**variables: str) -> dict[str, str]:
    """The environment of a process that finds the package, with these variables."""
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), **variables}


def program(
    code: str, *words: str | Path, folder: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run code as a program of its own, in a folder if one is given."""
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.run(
        command, cwd=folder, env=surroundings(**variables), capture_output=True, text=True
    )


def printed(code: str, *words: str | Path, **variables: str) -> str:
    """What a program prints that succeeds."""
    done = program(code, *words, **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout

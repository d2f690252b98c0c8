"""The log of a training run: a line of JSON with step, seconds and figures, whenever there are some."""

import json
import time
from pathlib import Path

from ..writing import appearing


class Log:
    """A file of figures, and the time that the run has taken so far."""

    def __init__(self, path: Path) -> None:
        self.path, self.started = path, time.time()

    @property
    def seconds(self) -> float:
        """How long the run has taken, without the time between an interrupt and going on."""
        return time.time() - self.started

    def write(self, step: int, figures: dict[str, float]) -> None:
        """Add a line."""
        line = {"step": step, "seconds": round(self.seconds, 1)}
        line |= {name: round(value, 5) for name, value in figures.items()}
        with self.path.open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")

    def go_on(self, step: int, seconds: float) -> None:
        """Cut the lines beyond `step`, which will come again; that step was taken after `seconds`."""
        self.started = time.time() - seconds
        if not self.path.exists():
            return
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n")]
        with appearing(self.path) as part:
            kept = [line for line in whole if json.loads(line)["step"] <= step]
            part.write_text("".join(kept), encoding="utf-8")

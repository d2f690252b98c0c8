"""What samplers and steps cost and lose: the table behind the presets.

A case is a `Settings` that differs from the default in a few fields. All cases paint the same
held-out prompts from the same noise, so that their differences are paired; Stage B starts with
fresh generators, whatever Stage C drew. A case has four figures:

adherence   pictures in which the judge reads every trait as it was asked for
calls       rows through each network for a picture; a guided step of Stage C takes two; of the
            presets also the seconds, of processor time, so that other programs do not count
path        RMS distance to ddim in very many steps from the same noise, for samplers that draw
            none: of z over its RMS, or of pixels in grey levels of 255
spread      Fréchet's distance to ddpm in very many steps from other noise, for all samplers: of z,
            or of VQ latents in blocks of 2×2 cells; the same ddpm from the cases' noise has the
            floor's spread, and ddim in very many steps has what no sampler without noise can beat

Each case is a file in the work folder: a run that was stopped goes on, and two may share a folder.
"""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..checks import check_whole
from ..pipeline import Wuerstchen
from ..settings import Settings
from .cases import NOISY, PARTS, calls, changes, title
from .distances import blocks, frechet, grey_distance, path_distance
from .kept import checksum, kept_json, kept_tensor
from .trial import Trial, paired_loss

Row = dict[str, Any]

REFERENCES = (("ddim", 0), ("ddpm", 0), ("ddpm", 1))  # sampler, and run: 0 has the cases' noise


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is measured.

    Attributes:
        prompts: of the table.
        checked: prompts on which the presets are compared with the default; none of the table's.
        references_c: pictures and steps of Stage C's references.
        references_b: pictures and steps of Stage B's references.
        seed: of the captions, and of the first picture.

    Raises:
        ValueError: if there are too few prompts, or fewer than a reference has pictures.
    """

    prompts: int = 80
    checked: int = 800
    references_c: tuple[int, int] = (40, 1000)
    references_b: tuple[int, int] = (20, 250)
    seed: int = 0

    def __post_init__(self) -> None:
        most = max(self.references_c[0], self.references_b[0])
        check_whole("prompts", self.prompts, most)
        check_whole("checked", self.checked, 2)


class Table:
    """The cases of each part, measured or read back from the work folder.

    Raises:
        ValueError: if the folder holds a table of another scale or of other weights.
    """

    def __init__(self, model: Wuerstchen, folder: Path, scale: Scale | None = None) -> None:
        self.model, self.folder, self.scale = model, folder, scale or Scale()
        folder.mkdir(parents=True, exist_ok=True)
        asked = asdict(self.scale) | {"weights": weights_of(model)}
        known = kept_json(folder / "scale.json", lambda: asked)
        if known != json.loads(json.dumps(asked)):
            raise ValueError(
                f"{folder} must be new or of this scale and these weights, got one of {known}; "
                "give another folder"
            )
        self.trial = Trial(model, self.scale.prompts, self.scale.seed)

    def rows(self) -> Iterator[Row]:
        """Yield the row of every case, part by part."""
        for part, cases in PARTS.items():
            for case in cases:
                yield self.row(part, case)

    def row(self, part: str, case: Settings) -> Row:
        """Return the row of a case, measured now unless it was before."""
        file = self.folder / f"{part} {title(case)}.json"
        return kept_json(file, lambda: self.measured(part, case))

    def measured(self, part: str, case: Settings) -> Row:
        """Return the row of a case; `right` and `shape` tell of each picture."""
        trial = self.checked if part == "presets" else self.trial
        count, begun = len(trial.scenes), time.process_time()
        z = self.default_z() if part == "stage_b" else trial.compose(case, count)
        vq = trial.develop(z, case)
        pixels = self.model.decode_pixels(vq)
        seconds = (time.process_time() - begun) / count
        agreements = trial.judged(pixels)
        row = {
            "part": part,
            "settings": changes(case),
            "calls": calls(case),
            "right": [int(all(agreement.values())) for agreement in agreements],
            "shape": [int(agreement["shape"]) for agreement in agreements],
        }
        if part == "presets":
            return row | {"seconds": seconds}
        return row | (
            self.distances_b(case, vq, pixels) if part == "stage_b" else self.distances_c(case, z)
        )

    @cached_property
    def checked(self) -> Trial:
        """Return the prompts on which the presets are compared with the default."""
        return Trial(self.model, self.scale.checked, self.scale.seed + self.scale.prompts + 1)

    def distances_c(self, case: Settings, z: Tensor) -> Row:
        """Return path and spread of semantic latents."""
        exact, _, drawn = self.references_c()
        z = z[: len(exact)]
        path = None if case.sampler in NOISY else path_distance(z, exact)
        return {"path": path, "spread": frechet(z, drawn)}

    def distances_b(self, case: Settings, vq: Tensor, pixels: Tensor) -> Row:
        """Return path, of pixels, and spread, of VQ latents."""
        exact, _, drawn = self.references_b()
        count, path = len(exact), None
        if case.decoder_sampler not in NOISY:
            path = grey_distance(pixels[:count], self.model.decode_pixels(exact))
        return {"path": path, "spread": frechet(blocks(vq[:count]), blocks(drawn))}

    def references_c(self) -> list[Tensor]:
        """Return z of ddim and ddpm from the cases' noise, and of ddpm from other noise."""
        count, steps = self.scale.references_c

        def reference(sampler: str, run: int) -> Tensor:
            case = Settings(sampler=sampler, steps=steps)
            file = self.folder / f"reference C {sampler} {run}.npy"
            return kept_tensor(file, lambda: self.trial.compose(case, count, run))

        return [reference(*which) for which in REFERENCES]

    def references_b(self) -> list[Tensor]:
        """Return VQ latents, likewise, of the default's semantic latents."""
        count, steps = self.scale.references_b

        def reference(sampler: str, run: int) -> Tensor:
            case, z = Settings(decoder_sampler=sampler, decoder_steps=steps), self.default_z()
            file = self.folder / f"reference B {sampler} {run}.npy"
            return kept_tensor(file, lambda: self.trial.develop(z[:count], case, run))

        return [reference(*which) for which in REFERENCES]

    def default_z(self) -> Tensor:
        """Return z of the default settings."""
        file = self.folder / "default.npy"
        return kept_tensor(file, lambda: self.trial.compose(Settings(), self.scale.prompts))

    def summary(self) -> Row:
        """Return the table: its scale, every case against the default, and the exact spreads.

        Those are what ddim and ddpm have in very many steps: where few steps can arrive.
        """
        rows = list(self.rows())
        exact_c, exact_b = self.references_c(), [blocks(vq) for vq in self.references_b()]
        table: Row = rounded(
            {
                "scale": asdict(self.scale),
                "exact": {"stage_c": exact_spreads(*exact_c), "stage_b": exact_spreads(*exact_b)},
                "rows": [against(row, rows) for row in rows],
            }
        )
        return table


def weights_of(model: Wuerstchen) -> str:
    """Return a checksum of all weights that paint."""
    towers = (model.prior_text.network, model.decoder_text.network)
    return checksum(*towers, model.stage_c, model.stage_b, model.stage_a)


def exact_spreads(ddim: Tensor, ddpm: Tensor, reference: Tensor) -> dict[str, float]:
    """Return how far the references with the cases' noise are from the other."""
    return {"ddim": frechet(ddim, reference), "ddpm": frechet(ddpm, reference)}


def against(row: Row, rows: Sequence[Row]) -> Row:
    """Return a row with rates in place of single pictures, and what it loses to the default.

    `lost` is in points of adherence, `error` the standard error of this paired difference.
    """
    group = "presets" if row["part"] == "presets" else "stage_c"
    usual = next(one for one in rows if one["part"] == group and not one["settings"])
    lost, error = paired_loss(usual["right"], row["right"])
    figures = {
        "pictures": len(row["right"]),
        "everything": float(np.mean(row["right"])),
        "shape": float(np.mean(row["shape"])),
        "lost": lost,
        "error": error,
    }
    return {name: value for name, value in row.items() if name != "right"} | figures


def as_text(table: Row) -> str:
    """Return a table as JSON with a line for each row."""
    head = json.dumps({name: value for name, value in table.items() if name != "rows"})
    lines = ",\n".join(json.dumps(row) for row in table["rows"])
    return f'{head[:-1]}, "rows": [\n{lines}\n]}}\n'


def rounded(value: Any) -> Any:
    """Return a value with at most four decimals in every number."""
    if isinstance(value, dict):
        return {name: rounded(part) for name, part in value.items()}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return round(value, 4) if isinstance(value, float) else value

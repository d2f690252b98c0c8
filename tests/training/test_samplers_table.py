"""The sampler table: its figures, its folder, its chart, and what it says of the presets."""

import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from wuerstchen.pipeline import Wuerstchen
from wuerstchen.samplers import SAMPLERS
from wuerstchen.sampling import chosen_times, generators, guided, within
from wuerstchen.settings import PRESETS, Settings
from wuerstchen.training import samplers
from wuerstchen.training.cases import PARTS, calls, changes
from wuerstchen.training.chart import COLOURS, draw_chart, marks, share
from wuerstchen.training.distances import blocks, frechet, path_distance
from wuerstchen.training.samplers import Scale, Table, against, as_text

TINY = Scale(prompts=2, checked=2, references_c=(2, 3), references_b=(1, 2))
MEASURED = Path(samplers.__file__).with_suffix(".json")


@pytest.fixture(scope="module")
def model() -> Wuerstchen:
    return Wuerstchen.load(device="cpu", progress=False)


@pytest.fixture
def table(model: Wuerstchen, tmp_path: Path) -> Table:
    return Table(model, tmp_path, TINY)


def test_a_shift_and_a_stretch_have_their_known_distance() -> None:
    x = torch.randn(50, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    x = x - x.mean((0, 2, 3), keepdim=True)
    deviation = float(x.double().movedim(1, -1).flatten(0, 2).T.cov().trace().sqrt())
    assert frechet(x, x) < 1e-6
    assert frechet(x + 0.5, x) == pytest.approx(math.sqrt(4 * 0.25) / deviation, rel=1e-4)
    assert frechet(3 * x, x) == pytest.approx(2, rel=1e-4)
    assert path_distance(1.1 * x, x) == pytest.approx(0.1, rel=1e-4)


def test_blocks_see_what_single_cells_do_not() -> None:
    """Stripes and checks have the same cells in another order."""
    rows, columns = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    patterns = [(rows % 2) * 2.0 - 1, ((rows + columns) % 2) * 2.0 - 1]
    noise = 0.1 * torch.randn(20, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    stripes, checks = (pattern + noise for pattern in patterns)
    assert frechet(stripes, checks) < 0.1 < frechet(blocks(stripes), blocks(checks))


@pytest.mark.parametrize(
    "case",
    [
        Settings(),
        Settings(steps=5, guidance=1.0),
        Settings(steps=5, sampler="heun"),
        Settings(steps=10, sampler="dpmpp_2m", guidance_start=0.8, guidance_end=0.2),
        Settings(steps=6, sampler="heun", guidance_end=0.5),
    ],
)
def test_calls_are_the_rows_that_a_run_asks_for(case: Settings) -> None:
    asked = 0

    def denoise(x: torch.Tensor, t: float) -> torch.Tensor:
        nonlocal asked
        asked += len(x)
        return x

    led = guided(denoise, case.guidance) if case.guidance > 1 else denoise
    led = within(case.guidance_start, case.guidance_end, led, denoise)
    rows = generators([0])
    list(SAMPLERS[case.sampler](led, torch.ones(1, 2), chosen_times(case.steps), rows))
    assert calls(case)[0] == asked


def test_a_reference_has_no_distance_from_itself_and_a_shorter_run_has(table: Table) -> None:
    three, two = (table.row("stage_c", Settings(sampler="ddim", steps=n)) for n in (3, 2))
    assert three["path"] < 1e-5 < 1e-2 < two["path"]
    exact, rough = (
        table.row("stage_b", Settings(decoder_sampler="ddim", decoder_steps=n)) for n in (2, 1)
    )
    assert exact["path"] < 1e-2 < 1 < rough["path"]
    assert table.row("stage_b", Settings(decoder_steps=2))["path"] is None


def test_runs_share_no_noise(table: Table) -> None:
    generators_of = [table.trial.rngs(slice(0, 3), run) for run in (0, 1)]
    drawn = [torch.randn(9, generator=one) for rows in generators_of for one in rows]
    assert len({tuple(one.tolist()) for one in drawn}) == 6


def test_a_case_is_measured_once_even_by_another_table(table: Table) -> None:
    case = Settings(steps=2, decoder_steps=1)
    first = table.row("presets", case)
    again = Table(table.model, table.folder, TINY).row("presets", case)
    assert first == again  # with the seconds, which would differ
    assert len(first["right"]) == TINY.checked


def test_a_folder_of_another_scale_is_refused(table: Table) -> None:
    with pytest.raises(ValueError, match="must be new or of this scale"):
        Table(table.model, table.folder, Scale(prompts=3, references_c=(2, 3), references_b=(1, 2)))


@torch.no_grad()
def test_a_folder_of_other_weights_is_refused(table: Table) -> None:
    weight = next(table.model.stage_c.parameters())
    kept = weight.clone()
    weight[0] += 0.01
    with pytest.raises(ValueError, match="and these weights"):
        Table(table.model, table.folder, TINY)
    weight.copy_(kept)
    Table(table.model, table.folder, TINY)


def test_an_axis_has_two_marks_for_any_figures() -> None:
    for found in ([0.004, 0.009], [0.01], [1.0], [0.004, 7.0], [3.0, 900.0]):
        axis = marks(found, "stage_c", "spread")
        assert len(axis) >= 2
        assert all(0 <= share(value, axis, False) <= 1 for value in found)
    assert len(marks([1.0, 1.0], "stage_c", "everything")) == 2


def test_grey_levels_below_one_are_no_shares() -> None:
    assert marks([0.87, 25.0], "stage_b", "path") == [0.5, 1, 2, 5, 10, 20]
    assert marks([0.016, 0.25], "stage_c", "path") == [0.01, 0.02, 0.05, 0.1, 0.2]


def test_what_a_case_loses_is_paired_with_the_default() -> None:
    usual = {"part": "stage_c", "settings": {}, "right": [1, 1, 1, 0], "shape": [1, 1, 1, 0]}
    other = usual | {"settings": {"steps": 4}, "right": [1, 0, 1, 1]}
    row = against(other, [usual, other])
    difference = 100 * np.array([0, 1, 0, -1])
    assert (row["everything"], row["shape"], row["lost"]) == (0.75, 0.75, 0)
    assert row["error"] == pytest.approx(difference.std(ddof=1) / 2)


def test_a_case_that_is_right_less_often_loses() -> None:
    usual = {"part": "stage_c", "settings": {}, "right": [1, 1, 1, 0], "shape": [1, 1, 1, 0]}
    worse = usual | {"settings": {"steps": 4}, "right": [1, 0, 1, 0]}
    assert against(worse, [usual, worse])["lost"] == 25


def test_the_chart_shows_every_sampler(tmp_path: Path) -> None:
    rows = [
        {"part": part, "settings": changes(case), "calls": calls(case)}
        | {"everything": 0.9, "path": (1 + i / 50) * unit, "spread": 0.2 + i / 500}
        for part, unit in (("stage_c", 0.1), ("stage_b", 5.0))
        for i, case in enumerate(PARTS[part])
    ]
    content = {
        "scale": asdict(TINY),
        "exact": {"stage_c": {"ddpm": 0.1}, "stage_b": {"ddpm": 0.1}},
        "rows": rows,
    }
    assert json.loads(as_text(content)) == json.loads(json.dumps(content))
    draw_chart(content, tmp_path / "chart.png")
    with Image.open(tmp_path / "chart.png") as image:
        picture = np.asarray(image.convert("RGB")).astype(int)[60:]  # less the legend
    for colour in COLOURS.values():
        assert (abs(picture - colour).max(axis=2) <= 4).sum() > 50


def test_the_table_in_the_package_is_about_the_presets_and_fast_keeps_its_promise() -> None:
    rows = json.loads(MEASURED.read_text(encoding="utf-8"))["rows"]
    usual, *chosen = [row for row in rows if row["part"] == "presets"]
    assert [row["settings"] for row in chosen] == list(PRESETS.values())
    fast = chosen[list(PRESETS).index("fast")]
    assert fast["pictures"] == Scale().checked
    assert sum(fast["calls"]) <= sum(usual["calls"]) / 2
    assert fast["seconds"] <= usual["seconds"] / 2
    assert fast["lost"] < 1

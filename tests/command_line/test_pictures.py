"""PNG files: their names and numbers, what they say of how they were made, sheets of several."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from wuerstchen import Settings, Wuerstchen, __version__
from wuerstchen.command_line import painting
from wuerstchen.command_line.parsing import parse
from wuerstchen.command_line.pictures import SOURCES, numbered, put_new, save

from ..peers import levels
from ..processes import surroundings
from .calls import ABOUT_THE_MODEL, OTHER, PROMPT, QUICK, REPEATED, about, names


def test_the_file_says_how_to_paint_it_again(
    paint: Callable[..., int], tmp_path: Path, tiny: Path
) -> None:
    words = ["--seed", 5, "--decoder-seed", 9, "--batch", 2, "--negative", "blue", "--cfg", 3]
    assert paint(PROMPT, *words, "--decoder-cfg", 2, "--output", "out") == 0
    facts = about(tmp_path / "out" / "00001.png")
    assert facts == {
        "prompt": PROMPT,
        "weighting": "comfy",
        "negative": "blue",
        "width": 128,
        "height": 128,
        "steps": 2,
        "sampler": "ddpm",
        "guidance": 3.0,
        "guidance_rescale": 0.0,
        "guidance_start": 1.0,
        "guidance_end": 0.0,
        "decoder_steps": 1,
        "decoder_sampler": "ddpm",
        "decoder_guidance": 2.0,
        "seed": 6,
        "decoder_seed": 10,
        "batch": 1,
        "image": None,
        "mask": None,
        "strength": None,
        "outpaint": [0, 0, 0, 0],
        "feather": 16,
        "tile": None,
        "model": str(tiny),
        "prior": None,
        "decoder": None,
        "stage_a": None,
        "compressor": None,
        "lora": [],
        "version": __version__,
        "quantize": "none",
    }
    settings = {k: v for k, v in facts.items() if k not in ABOUT_THE_MODEL}
    model = Wuerstchen.load(tiny, device="cpu", progress=False)
    again = model.paint(settings.pop("prompt"), **settings)[0]
    written = Image.open(tmp_path / "out" / "00001.png")
    assert abs(levels(again) - levels(written)).max() <= 1


def test_viewers_of_pictures_read_what_counts(tmp_path: Path) -> None:
    facts = dict.fromkeys(ABOUT_THE_MODEL) | {name: f"a/{name}" for name in SOURCES}
    settings = Settings(
        negative="blue", width=128, height=256, seed=5, decoder_seed=9, image="b.png", strength=0.5
    )
    loras = {"lora": ["one:0.5", "two"], "version": "1.0"}
    image = save(
        Image.new("RGB", (8, 8)),
        tmp_path / "a.png",
        {"prompt": PROMPT, **vars(settings), **facts, **loras},
    )
    assert Image.open(image).text["parameters"] == (  # type: ignore[attr-defined]
        f"{PROMPT}\nNegative prompt: blue\nSteps: 29, CFG scale: 4.0, Decoder steps: 12, "
        "Decoder CFG scale: 0.0, Seed: 5, Decoder seed: 9, Size: 128x256, Model: a/model, "
        "Prior: a/prior, Decoder: a/decoder, Stage A: a/stage_a, Image: b.png, "
        "Denoising strength: 0.5, LoRA: one:0.5 two, Version: wuerstchen 1.0"
    )


def test_prompts_are_readable_in_any_script(tmp_path: Path) -> None:
    saved = save(
        Image.new("RGB", (8, 8)), tmp_path / "a.png", {**REPEATED, "prompt": "日本の café"}
    )
    assert Image.open(saved).text["parameters"].startswith("日本の café\n")
    assert about(saved)["prompt"] == "日本の café"


def test_a_picture_painted_over_a_file_with_an_undecodable_name_is_written(tmp_path: Path) -> None:
    facts = {**REPEATED, "image": "caf\udce9.png"}
    saved = save(Image.new("RGB", (8, 8)), tmp_path / "a.png", facts)
    assert about(saved)["image"] == "caf\udce9.png"


def test_a_file_name_is_taken_as_it_is_and_replaced(
    paint: Callable[..., int], tmp_path: Path
) -> None:
    for seed in (1, 2):
        assert paint(PROMPT, "--output", "new/star.png", "--seed", seed) == 0
        assert about(tmp_path / "new" / "star.png")["seed"] == seed
    assert names(tmp_path / "new") == ["star.png"]


def test_a_name_in_capitals_is_one_picture_too(paint: Callable[..., int], tmp_path: Path) -> None:
    assert paint(PROMPT, "--output", "A.PNG") == 0
    assert (tmp_path / "A.PNG").is_file()


def test_a_name_of_the_greatest_length_is_written(
    paint: Callable[..., int], tmp_path: Path
) -> None:
    name = "x" * 251 + ".png"
    assert paint(PROMPT, "--output", name) == 0
    assert names(tmp_path) == [name]


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names are Unicode there")
def test_a_file_name_may_be_no_utf_8(paint: Callable[..., int], tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    assert paint(PROMPT, "--output", name) == 0
    assert names(tmp_path) == [name]


def test_numbers_follow_the_prompts_and_go_on_after_the_highest(
    paint: Callable[..., int], tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "00041.png").write_bytes(b"")
    assert paint(PROMPT, OTHER, "--batch", 2, "--output", "out/") == 0
    facts = [about(tmp_path / "out" / f"{number:05d}.png") for number in range(42, 46)]
    assert [(f["prompt"], f["seed"]) for f in facts] == [
        (PROMPT, 0),
        (PROMPT, 1),
        (OTHER, 0),
        (OTHER, 1),
    ]


def test_numbers_may_have_more_digits(tmp_path: Path) -> None:
    for name in ("99999.png", "100000.png"):
        (tmp_path / name).touch()
    assert numbered(tmp_path).name == "100001.png"


def test_a_number_that_another_run_took_meanwhile_is_passed_over(tmp_path: Path) -> None:
    part, taken = tmp_path / "part", tmp_path / "00007.png"
    part.write_text("ours")
    taken.write_text("theirs")
    assert put_new(part, taken).read_text() == "ours"
    assert taken.read_text() == "theirs"
    assert (tmp_path / "00008.png").read_text() == "ours"


def test_two_programs_that_fill_one_folder_lose_no_picture(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from PIL import Image; from wuerstchen.command_line.pictures import save\n"
        "image = Image.effect_noise((256, 256), 50)\n"
        "for _ in range(20): save(image, Path('out'), {'prompts': []})"
    )
    command, where = [sys.executable, "-c", code], {"cwd": tmp_path, "env": surroundings()}
    both = [subprocess.Popen(command, **where) for _ in "ab"]
    assert [one.wait() for one in both] == [0, 0]
    assert names(tmp_path / "out") == [f"{number:05d}.png" for number in range(40)]


def test_pictures_of_a_path_are_on_the_disk_as_they_are_painted(tmp_path: Path) -> None:
    words = [PROMPT, OTHER, "--interpolate", "5", "--batch", "2", *QUICK]
    told = painting.paint(parse([*words, "--output", str(tmp_path)]))
    for count in (1, 2, 3):
        next(told)
        assert len(names(tmp_path)) == count
    told.close()  # type: ignore[attr-defined]
    assert names(tmp_path) == ["00000.png", "00001.png", "00002.png"]
    assert about(tmp_path / "00002.png")["batch"] == 2


def test_the_grid_has_a_row_per_prompt(paint: Callable[..., int], tmp_path: Path) -> None:
    assert paint(PROMPT, OTHER, "--batch", 3, "--grid", "--output", "out") == 0
    sheet = Image.open(tmp_path / "out" / "00000-00005-grid.png")
    assert sheet.size == (3 * 128, 2 * 128)
    last = Image.open(tmp_path / "out" / "00005.png")
    assert sheet.crop((256, 128, 384, 256)).tobytes() == last.tobytes()
    assert paint(PROMPT, "--output", "out") == 0
    assert "00006.png" in names(tmp_path / "out")


def test_single_pictures_make_a_nearly_square_grid(
    paint: Callable[..., int], tmp_path: Path
) -> None:
    assert paint(PROMPT, OTHER, "a blue star", "--grid", "--output", "out") == 0
    assert Image.open(tmp_path / "out" / "00000-00002-grid.png").size == (256, 256)


def test_the_sheet_of_a_path_is_a_row(paint: Callable[..., int], tmp_path: Path) -> None:
    assert paint(PROMPT, OTHER, "--interpolate", 3, "--grid", "--output", "path") == 0
    with Image.open(tmp_path / "path" / "00000-00002-grid.png") as sheet:
        assert sheet.size == (3 * 128, 128)

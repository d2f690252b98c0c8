"""A picture is repeated from its own file, also one of a sheet, of a path or painted over another."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from wuerstchen.__main__ import main
from wuerstchen.command_line.parsing import parse
from wuerstchen.command_line.pictures import SOURCES, save

from .calls import OTHER, PROMPT, REPEATED, about, names


def test_a_picture_is_repeated_from_its_own_file_with_what_is_given_changed(
    paint: Callable[..., int], tmp_path: Path
) -> None:
    first, again, other = (tmp_path / name for name in ("a.png", "b.png", "c.png"))
    words = ["--seed", 5, "--decoder-seed", 9, "--cfg", 3, "--sampler", "euler", "--output", first]
    assert paint(PROMPT, *words) == 0
    assert paint("--from", first, "--output", again) == 0
    assert again.read_bytes() == first.read_bytes()
    assert paint("--from", first, "--seed", 6, "--output", other) == 0
    facts = about(first)
    assert about(other) == {**facts, "seed": 6}
    assert paint(OTHER, "--from", first, "--output", other) == 0
    assert about(other) == {**facts, "prompt": OTHER}


def test_a_sheet_repeats_all_of_its_pictures(paint: Callable[..., int], tmp_path: Path) -> None:
    assert paint(PROMPT, OTHER, "--batch", 2, "--seed", 5, "--grid", "--output", "a") == 0
    assert paint("--from", "a/00000-00003-grid.png", "--output", "b") == 0
    for i in range(4):
        name = f"0000{i}.png"
        assert (tmp_path / "b" / name).read_bytes() == (tmp_path / "a" / name).read_bytes()


def test_a_path_writes_its_frames_which_tell_the_whole_path(
    paint: Callable[..., int], tmp_path: Path
) -> None:
    assert paint(PROMPT, OTHER, "--interpolate", 3, "--grid", "--output", "path") == 0
    assert names(tmp_path / "path") == [
        "00000-00002-grid.png",
        "00000.png",
        "00001.png",
        "00002.png",
    ]
    assert paint("--from", "path/00001.png", "--output", "again") == 0
    for name in ("00000.png", "00001.png", "00002.png"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "path" / name).read_bytes()


def test_a_path_between_pictures_takes_one_prompt_and_is_repeated(tmp_path: Path) -> None:
    images = [str(tmp_path / name) for name in ("a.png", "b.png")]
    for i, image in enumerate(images):
        Image.effect_noise((128, 128), 50 + i).convert("RGB").save(image)
    quick = ["--strength", "0", "--decoder-steps", "1", "--device", "cpu"]
    over = [word for image in images for word in ("--image", image)]
    path, again, alone = (tmp_path / name for name in ("path", "again", "alone.png"))
    assert main(["", *over, "--interpolate", "3", *quick, "--output", str(path)]) == 0
    assert about(path / "00001.png")["frame"] == 1
    assert main(["--from", str(path / "00001.png"), "--device", "cpu", "--output", str(again)]) == 0
    for name in ("00000.png", "00001.png", "00002.png"):
        assert (again / name).read_bytes() == (path / name).read_bytes()
    assert main(["", "--image", images[1], *quick, "--output", str(alone)]) == 0
    assert Image.open(alone).tobytes() == Image.open(path / "00002.png").tobytes()


def test_a_picture_is_painted_over_and_says_so(tmp_path: Path) -> None:
    quick = ["--steps", "3", "--decoder-steps", "2", "--device", "cpu"]
    image, mask, new = (str(tmp_path / name) for name in ("a.png", "m.png", "b.png"))
    Image.effect_noise((200, 130), 50).convert("RGB").save(image)
    Image.new("L", (200, 130), 255).save(mask)
    over = ["--image", image, "--mask", mask, "--strength", "0.5", "--outpaint", "8,0,0,0"]
    assert main([PROMPT, *over, *quick, "--output", new]) == 0
    assert Image.open(new).size == (208, 130)
    facts = about(Path(new))
    assert (facts["image"], facts["mask"], facts["outpaint"]) == (image, mask, [8, 0, 0, 0])
    again = str(tmp_path / "c.png")
    assert main(["--from", new, "--device", "cpu", "--output", again]) == 0
    assert Path(again).read_bytes() == Path(new).read_bytes()


def test_images_and_loras_that_are_given_take_the_place_of_those_in_the_file(
    tmp_path: Path,
) -> None:
    save(Image.new("RGB", (8, 8)), tmp_path / "a.png", REPEATED)
    words = ["--from", str(tmp_path / "a.png")]
    kept, changed = parse(words), parse([*words, "--image", "new.png", "--lora", "style:0.5"])
    assert (kept.image, kept.lora) == (["old.png"], ["style:1.0", "other"])
    assert (changed.image, changed.lora) == (["new.png"], ["style:0.5"])


def test_none_takes_away_what_the_file_has(tmp_path: Path) -> None:
    told = {"mask": "m.png", "strength": 0.5, "outpaint": [8, 0, 0, 0], "feather": 3, "steps": 3}
    told |= {"prior": "p", "decoder": "d", "stage_a": "a", "compressor": "c", "decoder_seed": 5}
    save(Image.new("RGB", (8, 8)), tmp_path / "a.png", {**REPEATED, **told})

    def read(*words: str) -> dict[str, Any]:
        return vars(parse(["--from", str(tmp_path / "a.png"), *words]))

    kept, plain = read(), vars(parse([PROMPT]))
    for name in (
        "lora",
        "mask",
        "steps",
        "prior",
        "decoder",
        "stage_a",
        "compressor",
        "decoder_seed",
    ):
        changed = read(f"--{name.replace('_', '-')}", "none")
        assert kept[name] != plain[name]
        assert changed == kept | {name: plain[name]}
    over = ("image", "mask", "strength", "outpaint", "feather")
    assert read("--image", "none") == kept | {name: plain[name] for name in over}
    assert read("--lora", "none", "--lora", "b")["lora"] == ["b"]


def test_the_model_in_a_file_is_repeated(tmp_path: Path) -> None:
    told = {name: f"a/{name}" for name in SOURCES} | {"quantize": "int8"}
    save(Image.new("RGB", (8, 8)), tmp_path / "a.png", {**REPEATED, **told})
    args = parse(["--from", str(tmp_path / "a.png"), "--decoder", "b"])
    assert {name: getattr(args, name) for name in told} == told | {"decoder": "b"}


def test_a_preset_comes_before_the_settings_of_a_file(tmp_path: Path) -> None:
    save(Image.new("RGB", (8, 8)), tmp_path / "a.png", {**REPEATED, "steps": 3, "decoder_steps": 3})
    args = parse(["--from", str(tmp_path / "a.png"), "--preset", "fast", "--decoder-steps", "4"])
    assert (args.steps, args.decoder_steps) == (10, 4)


def test_a_picture_to_repeat_may_lie_at_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    save(Image.new("RGB", (8, 8)), tmp_path / "a.png", REPEATED)
    assert parse(["--from=~/a.png"]).wanted == [PROMPT]

"""The command line, as a user calls it: a prompt becomes a picture, by every option there is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from wuerstchen import Settings, Wuerstchen, __version__
from wuerstchen.__main__ import main
from wuerstchen.command_line.parsing import parse
from wuerstchen.settings import PRESETS

from ..peers import levels
from ..processes import printed, program
from .calls import PROMPT, Capture, about, names


def test_a_prompt_becomes_a_numbered_png_whose_path_is_printed(
    paint: Callable[..., int], tmp_path: Path, capfd: Capture
) -> None:
    assert paint(PROMPT) == 0
    assert capfd.readouterr().out == f"{Path('wuerstchen-output', '00000.png')}\n"
    image = Image.open(tmp_path / "wuerstchen-output" / "00000.png")
    assert (image.format, image.mode, image.size) == ("PNG", "RGB", (128, 128))
    assert names(tmp_path) == ["wuerstchen-output"]


def test_every_option_counts_as_in_the_library(twins: tuple[Path, Path], tmp_path: Path) -> None:
    image, mask = (str(tmp_path / name) for name in ("image.png", "mask.png"))
    Image.effect_noise((300, 130), 50).convert("RGB").save(image)
    Image.linear_gradient("L").resize((300, 130)).save(mask)
    settings: dict[str, Any] = {
        "weighting": "none",
        "negative": "blue",
        "width": 384,
        "height": 128,
        "steps": 3,
        "sampler": "euler",
        "guidance": 3.0,
        "guidance_rescale": 0.5,
        "guidance_start": 0.7,
        "guidance_end": 0.5,
        "decoder_steps": 2,
        "decoder_sampler": "ddim",
        "decoder_guidance": 1.5,
        "seed": 5,
        "decoder_seed": 6,
        "batch": 2,
        "image": image,
        "mask": mask,
        "strength": 0.8,
        "outpaint": (0, 0, 8, 0),
        "feather": 4,
        "tile": 256,
    }
    assert [k for k, v in vars(Settings()).items() if settings[k] == v] == []
    source = {
        "model": str(twins[0]),
        "prior": str(twins[1] / "wuerstchen-prior"),
        "decoder": str(twins[1] / "wuerstchen" / "decoder"),
        "stage_a": str(twins[1] / "wuerstchen" / "vqgan"),
        "compressor": str(twins[1] / "wuerstchen" / "efficient_net"),
        "device": "cpu",
        "dtype": "bf16",
        "offload": "layer",
        "quantize": "int8",
    }
    words = ["a (large:3) circle", "--output", str(tmp_path / "out")]
    for name, value in {**source, **settings}.items():
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        words += [f"--{name.replace('guidance', 'cfg').replace('_', '-')}", text]
    assert main(words) == 0
    wanted = Wuerstchen.load(**source, progress=False).paint(words[0], **settings)
    for i, picture in enumerate(wanted):
        written = Image.open(tmp_path / "out" / f"0000{i}.png")
        assert written.tobytes() == picture.tobytes()


def test_a_preset_sets_what_is_not_given(paint: Callable[..., int], tmp_path: Path) -> None:
    assert paint(PROMPT, "--preset", "fast", "--output", "a.png") == 0
    facts = about(tmp_path / "a.png")
    assert facts["sampler"] == PRESETS["fast"]["sampler"] != "ddpm"
    assert facts["steps"] == 2  # given by the fixture


def test_prior_and_decoder_can_be_given_one_by_one(
    paint: Callable[..., int], tiny: Path, tmp_path: Path
) -> None:
    prior, decoder = tiny / "wuerstchen-prior" / "prior", tiny / "wuerstchen"
    assert paint(PROMPT, "--prior", prior, "--decoder", decoder, "--offload", "layer") == 0
    assert about(tmp_path / "wuerstchen-output" / "00000.png")["prior"] == str(prior)


def test_a_lora_changes_the_picture_by_its_strength_and_is_written_down(
    paint: Callable[..., int], tmp_path: Path, tiny: Path
) -> None:
    layer = "blocks.2.attention.to_k"
    width = Wuerstchen.load(tiny, device="cpu", progress=False).stage_c.config.c
    update = {"A": torch.ones(1, width), "B": torch.ones(width, 1)}
    lora = tmp_path / "bright.safetensors"
    save_file({f"prior.{layer}.lora_{k}.weight": v for k, v in update.items()}, lora)
    for words in ([], ["--lora", f"{lora}:0"], ["--lora", f"{lora}:3"]):
        assert paint(PROMPT, *words, "--output", "out") == 0
    plain, nothing, changed = (
        levels(Image.open(tmp_path / "out" / f"0000{i}.png")) for i in range(3)
    )
    assert (plain == nothing).all()
    assert abs(plain - changed).max() > 1
    assert about(tmp_path / "out" / "00002.png")["lora"] == [f"{lora}:3"]


def test_behind_two_dashes_everything_is_a_prompt() -> None:
    for before in ([], ["a star"]):
        args = parse([*before, "--seed", "3", "--", "-blue", "--seed", "--"])
        assert (args.wanted, args.seed) == ([*before, "-blue", "--seed", "--"], 3)


def test_the_home_folder_is_known_behind_an_equals_sign() -> None:
    args = parse(["--output=~/pictures", "--prompts=~/p.txt", "--image=~x.png"])
    assert args.output == Path.home() / "pictures"
    assert args.prompts == Path.home() / "p.txt"
    assert parse(["--output=~x.png"]).output == Path("~x.png")


def test_help_and_version_end_with_status_0(capfd: Capture) -> None:
    for words in (["--help"], ["info", "--help"], ["convert", "--help"], ["--version"]):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 0
    assert f"wuerstchen {__version__}" in capfd.readouterr().out


def test_names_that_the_terminal_lacks_are_printed_as_escapes(tmp_path: Path) -> None:
    code = "import sys; from wuerstchen.__main__ import main; sys.argv[1:] = ['--help']; main()"
    ran = program(code, folder=tmp_path, PYTHONIOENCODING="ascii")
    assert ran.returncode == 0
    assert "W\\xfcrstchen" in ran.stdout


def test_importing_the_package_and_refusing_a_number_load_no_torch() -> None:
    code = (
        "import sys, wuerstchen; from wuerstchen.__main__ import main\n"
        "assert main(['a star', '--width', '1']) == 2\n"
        "assert not {'torch', 'transformers', 'PIL', 'numpy'} & set(sys.modules)"
    )
    printed(code)


def test_debug_shows_where_an_error_comes_from(capfd: Capture) -> None:
    assert main([PROMPT, "--width", "1", "--debug"]) == 2
    err = capfd.readouterr().err
    assert err.startswith("Traceback")
    assert err.splitlines()[-1].startswith("wuerstchen: error: width must be")


def test_a_warning_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 128 * 128 - 1)
    Image.new("RGB", (128, 128)).save(tmp_path / "a.png")
    words = ["--image", str(tmp_path / "a.png"), "--strength", "0", "--decoder-steps", "1"]
    assert main([PROMPT, *words, "--device", "cpu", "--output", str(tmp_path / "b.png")]) == 0
    warned = [line for line in capfd.readouterr().err.splitlines() if "16384 pixels" in line]
    assert len(warned) == 1
    assert warned[0].startswith("wuerstchen: warning: Image size (16384 pixels) exceeds limit")

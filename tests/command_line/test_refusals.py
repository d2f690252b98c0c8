"""What the command line refuses: bad options, pictures and files, each in one line that says why."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import save_file

from wuerstchen import Wuerstchen
from wuerstchen.__main__ import main

from .calls import OTHER, PROMPT, Capture, refused


@pytest.fixture(autouse=True)
def in_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a refused command left behind would be found."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        (["--width", "100"], "width must be a whole number of at least 128, got 100"),
        (["--height", "-1"], "height must be a whole number of at least 128, got -1"),
        (["--width", "nan"], "--width: must be a whole number, got 'nan'"),
        (["--height", "inf"], "--height: must be a whole number, got 'inf'"),
        (["--width", "512.5"], "--width: must be a whole number, got '512.5'"),
        (["--steps", "0"], "steps must be a whole number of at least 1, got 0"),
        (["--decoder-steps", "0"], "decoder_steps must be a whole number of at least 1, got 0"),
        (["--batch", "0"], "batch must be a whole number of at least 1, got 0"),
        (["--batch", "5000"], "batch must be a whole number of at most 4096, got 5000"),
        (["--seed", "-1"], "seed must be a whole number of at least 0"),
        (["--cfg", "nan"], "--cfg: must be a finite number, got 'nan'"),
        (["--decoder-cfg", "much"], "--decoder-cfg: must be a finite number, got 'much'"),
        (["--lora", ":2"], "a LoRA must be SOURCE or SOURCE:STRENGTH, such as"),
        (["--lora", "nowhere.safetensors:0.5"], "nowhere.safetensors: expected"),
        (["--prior", "a*0.5+b*0.6"], "must add up to 1, got 1.1 in"),
        (["--weighting", "magic"], "weighting must be one of comfy, compel, none, got 'magic'"),
        (["--sampler", "magic"], "sampler must be one of ddpm, ddim, euler, "),
        (["--decoder-sampler", "magic"], "decoder_sampler must be one of ddpm, ddim, euler, "),
        (["--cfg-rescale", "2"], "guidance_rescale must be a number from 0 to 1, got 2.0"),
        (["--cfg-start", "0.2", "--cfg-end", "0.2"], "times that fall from at most 1"),
        (["--device", "tpu"], "device must be auto, cpu, cuda, cuda:N or mps, got 'tpu'"),
        (["--device", "cuda:99"], "device cuda:99 is not there; available are cpu"),
        (["--dtype", "fp8"], "dtype must be auto, fp32, fp16 or bf16, got 'fp8'"),
        (["--offload", "disk"], "offload must be none, stage or layer, got 'disk'"),
        (["--quantize", "int4"], "quantize must be none or int8, got 'int4'"),
        (["--output", "a.jpg"], "--output must be a folder or a name that ends in .png, got a.jpg"),
        (["--batch", "2", "--output", "a.png"], "2 images need a folder as --output"),
        (["--grid", "--output", "a.png"], "an image and its --grid need a folder as --output"),
        (["--output", "taken/deep/a.png"], "is a file"),
        (["--output", "taken"], "is a file"),
        (["--colour"], "unrecognized arguments: --colour"),
        (["--model", "nowhere"], "nowhere: expected mini, v2 or a folder that holds"),
        (["--model", "v3"], "v3: expected mini, v2 or a folder that holds"),
        (["--prior", "nowhere.safetensors"], "nowhere.safetensors: expected"),
        (["--decoder", "nowhere.pt"], "nowhere.pt: expected"),
        (["--cfg", "1e39"], "guidance must be a number from -10000 to 10000, got 1e+39"),
        (["--width", "9" * 28], "width must be a whole number of at most"),
        (["caf\udce9"], "a prompt must be text in UTF-8, got 'caf"),
        (["--negative", "caf\udce9"], "negative must be text in UTF-8, got 'caf"),
        (["--strength", "0"], "give an image to paint over, or no strength"),
        (["--image", "~x.png"], "~x.png: No such file"),
        (["--from", "~x.png"], "~x.png: No such file"),
    ],
)
def test_bad_options_are_refused_in_one_line(
    paint: Callable[..., int],
    words: list[str],
    rule: str,
    tmp_path: Path,
    tiny: Path,
    capfd: Capture,
) -> None:
    (tmp_path / "taken").write_bytes(b"")
    model = [] if "--model" in words else ["--model", str(tiny)]
    assert rule in refused(lambda: main([PROMPT, *words, *model]), tmp_path, capfd)


def test_no_prompt_is_refused(tmp_path: Path, capfd: Capture) -> None:
    line = refused(lambda: main([]), tmp_path, capfd)
    assert "a PROMPT is needed, got none (see wuerstchen --help)" in line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--from", "none.png"], "none.png: No such file or directory"),
        (["--from", "text.png"], "text.png: expected a picture, could not decode it"),
        (["--from", "plain.png"], "plain.png: expected the settings that wuerstchen writes"),
        (["--from", "odd.png"], "odd.png: expected the settings that wuerstchen writes"),
        (["--from", "deep.png"], "deep.png: expected the settings that wuerstchen writes"),
        (["--from", "graph.png"], "graph.png was made by a graph; drop it onto ComfyUI's window"),
        ([PROMPT, "--preset", "quick"], "preset must be one of fast, balanced, best, got 'quick'"),
        ([PROMPT, "--image", "none.png"], "none.png: No such file or directory"),
        ([PROMPT, "--image", "text.png"], "text.png: expected a picture such as PNG or JPEG"),
        (
            [PROMPT, "--image", "plain.png", "--mask", "small.png"],
            "the mask must be of the image's",
        ),
        ([PROMPT, "--mask", "small.png"], "give an image to paint over, or no mask"),
        ([PROMPT, "--outpaint", "1,2"], "must be pixels left, above, right and below"),
        ([PROMPT, "--image", "plain.png", "--image", "small.png"], "several images are for"),
        ([PROMPT, "--interpolate", "3"], "--interpolate needs at least 2 pictures, and 2 prompts"),
        ([PROMPT, OTHER, "--interpolate", "1"], "--interpolate needs at least 2 pictures"),
        ([PROMPT, "--prompts", "p.txt"], "--prompts FILE stands alone"),
        (
            ["--grid", "--prompts", "p.txt"],
            "without PROMPT, --interpolate, --grid or several images",
        ),
        (["--prompts", "none.txt"], "none.txt: No such file or directory"),
    ],
)
def test_pictures_and_files_that_cannot_be_used_are_refused_in_one_line(
    paint: Callable[..., int], tmp_path: Path, capfd: Capture, words: list[str], message: str
) -> None:
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "p.txt").write_text("a star")
    plain = Image.new("RGB", (128, 128))
    plain.save(tmp_path / "plain.png")
    Image.new("L", (64, 64)).save(tmp_path / "small.png")
    for name, entry, value in (
        ("graph.png", "workflow", "{}"),
        ("odd.png", "wuerstchen", '{"prompt": "a", "steps": {}}'),
        ("deep.png", "wuerstchen", "[" * 100_000),
    ):
        info = PngInfo()
        info.add_text(entry, value)
        plain.save(tmp_path / name, pnginfo=info)
    assert message in refused(lambda: paint(*words), tmp_path, capfd)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([PROMPT, "--lora", "typo.safetensors"], "typo.safetensors: expected a weights file"),
        ([PROMPT, "--decoder", "nowhere.pt"], "nowhere.pt: expected a weights file"),
        ([PROMPT, "--stage-a", "typo"], "typo: expected a weights file"),
        ([PROMPT, "--compressor", "nowhere.pt"], "nowhere.pt: expected a weights file"),
        ([PROMPT, "--prior", "a.pt*0.5+b.pt*0.5"], "a.pt: expected a weights file"),
        (["", "--interpolate", "3", "--image", "a.png", "--image", "b.png"], "images of one size"),
        (
            [PROMPT, OTHER, "--interpolate", "3", "--image", "a.png", "--mask", "a.png"],
            "give no --mask or --outpaint",
        ),
        ([PROMPT, "--image", "c.png", "--outpaint", "99,0,0,0"], "the width of the image must be"),
    ],
)
def test_what_names_the_wrong_files_is_refused_before_a_model_is_loaded(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: Capture,
    words: list[str],
    message: str,
) -> None:
    for name, width in (("a.png", 128), ("b.png", 256), ("c.png", 100)):
        Image.new("RGB", (width, 128)).save(tmp_path / name)
    monkeypatch.setattr(Wuerstchen, "load", None)
    assert message in refused(lambda: main(words), tmp_path, capfd)


class Bomb:
    """Something that runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("exploded",)


def wrong_sources(tiny: Path, folder: Path) -> dict[str, tuple[Path, str]]:
    """Files that are no prior, and what should be said of them."""
    for name, key in {
        "cascade": "clip_txt_mapper.weight",
        "lora": "blocks.2.attention.to_q.lora_A.weight",
    }.items():
        save_file({key: torch.ones(1)}, folder / f"{name}.safetensors")
    torch.save({"state_dict": Bomb()}, folder / "bomb.pt")
    whole = tiny / "wuerstchen-prior" / "prior" / "diffusion_pytorch_model.safetensors"
    (folder / "cut.safetensors").write_bytes(whole.read_bytes()[:-1000])
    (folder / "empty").mkdir()
    return {
        "the decoder": (tiny / "wuerstchen" / "decoder", "this is Stage B"),
        "Stable Cascade": (folder / "cascade.safetensors", "Stable Cascade"),
        "a LoRA": (folder / "lora.safetensors", "a LoRA"),
        "a pickle that runs code": (folder / "bomb.pt", "could run code"),
        "a truncated file": (folder / "cut.safetensors", "cut short"),
        "an empty folder": (folder / "empty", "an empty folder"),
    }


def test_wrong_files_as_prior_are_refused_by_what_they_are(
    paint: Callable[..., int], tiny: Path, tmp_path: Path, capfd: Capture
) -> None:
    for name, (source, words) in wrong_sources(tiny, tmp_path).items():
        line = refused(lambda source=source: paint(PROMPT, "--prior", source), tmp_path, capfd)  # type: ignore[misc]
        assert words in line, name
        assert str(source) in line, name


def test_a_file_of_prompts_takes_one_image_at_most(
    paint: Callable[..., int], tmp_path: Path, capfd: Capture
) -> None:
    (tmp_path / "p.txt").write_text("a star")
    Image.new("RGB", (128, 128)).save(tmp_path / "a.png")
    words = ["--prompts", "p.txt", "--image", "a.png", "--image", "a.png"]
    assert "--prompts FILE stands alone" in refused(lambda: paint(*words), tmp_path, capfd)


def test_a_path_takes_as_many_prompts_as_images(
    paint: Callable[..., int], tmp_path: Path, capfd: Capture
) -> None:
    Image.new("RGB", (128, 128)).save(tmp_path / "a.png")
    words = [PROMPT, OTHER, "--interpolate", 3, *["--image", "a.png"] * 3]
    line = refused(lambda: paint(*words), tmp_path, capfd)
    assert "needs as many prompts as images, or one, got 2 prompts and 3 images" in line


def test_two_pictures_need_a_folder(
    paint: Callable[..., int], tmp_path: Path, capfd: Capture
) -> None:
    line = refused(lambda: paint(PROMPT, OTHER, "--output", "a.png"), tmp_path, capfd)
    assert "2 images need a folder as --output" in line


def test_a_path_needs_a_folder(paint: Callable[..., int], tmp_path: Path, capfd: Capture) -> None:
    line = refused(
        lambda: paint(PROMPT, OTHER, "--interpolate", 3, "--output", "a.png"), tmp_path, capfd
    )
    assert "3 images need a folder as --output" in line


def test_a_picture_does_not_replace_what_it_is_painted_over(tmp_path: Path, capfd: Capture) -> None:
    image = str(tmp_path / "a.png")
    Image.effect_noise((128, 128), 50).convert("RGB").save(image)
    before = Path(image).read_bytes()
    words = [PROMPT, "--image", image, "--output", image, "--device", "cpu"]
    assert main(words) == 2
    assert "--output must not be the picture to paint over" in capfd.readouterr().err
    assert Path(image).read_bytes() == before

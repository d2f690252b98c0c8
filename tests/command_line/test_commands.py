"""The commands `info` and `convert`: what they print and write, and how their words are painted."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from wuerstchen.__main__ import main
from wuerstchen.checkpoints.info import describe

from .calls import PROMPT, QUICK, Capture, about, refused


def test_info_tells_what_a_checkpoint_is(tiny: Path, capfd: Capture) -> None:
    assert main(["info", str(tiny / "wuerstchen")]) == 0
    shown = capfd.readouterr().out
    assert "Stage B (the decoder)" in shown
    assert "Stage A (the VQGAN)" in shown
    assert "sha256" in shown


def test_info_tells_the_precision_and_the_size_of_the_file(tiny: Path, capfd: Capture) -> None:
    assert main(["info", str(tiny / "wuerstchen" / "decoder")]) == 0
    lines = dict(line.split(maxsplit=1) for line in capfd.readouterr().out.splitlines() if line)
    assert lines["dtypes"] == "float32"
    assert (
        int(lines["bytes"].replace(",", ""))
        == (tiny / "wuerstchen" / "decoder" / "diffusion_pytorch_model.safetensors").stat().st_size
    )
    assert "," in lines["bytes"]


def test_a_converted_prior_paints_the_same_picture(
    paint: Callable[..., int], tiny: Path, tmp_path: Path, capfd: Capture
) -> None:
    source, out = tiny / "wuerstchen-prior" / "prior", tmp_path / "prior.safetensors"
    assert main(["convert", str(source), str(out), "--dtype", "fp32"]) == 0
    assert capfd.readouterr().out == f"{out}\n"
    assert paint(PROMPT, "--output", "a.png") == 0
    assert paint(PROMPT, "--prior", out, "--output", "b.png") == 0
    assert Image.open("a.png").tobytes() == Image.open("b.png").tobytes()


def test_one_network_of_several_can_be_converted(tmp_path: Path, tiny: Path) -> None:
    out = tmp_path / "a.safetensors"
    assert main(["convert", str(tiny / "wuerstchen"), str(out), "--kind", "stage_a"]) == 0
    assert describe(out)[0].kind == "stage_a"


def test_a_blend_of_priors_paints_what_its_converted_file_paints(
    paint: Callable[..., int], tmp_path: Path, tiny: Path
) -> None:
    first, other = tiny / "wuerstchen-prior" / "prior", tmp_path / "other"
    shutil.copytree(first, other)
    weights = other / "diffusion_pytorch_model.safetensors"
    save_file({key: tensor.flip(0) for key, tensor in load_file(weights).items()}, weights)
    blend = f"{first}*0.7+{other}*0.3"
    assert paint(PROMPT, "--prior", blend, "--output", "a.png") == 0
    assert about(tmp_path / "a.png")["prior"] == blend
    assert main(["convert", blend, "blend.safetensors"]) == 0
    for name, source in (("b.png", "blend.safetensors"), ("c.png", first)):
        assert paint(PROMPT, "--prior", source, "--output", name) == 0
    pictures = [Image.open(tmp_path / name).tobytes() for name in ("a.png", "b.png", "c.png")]
    assert pictures[0] == pictures[1] != pictures[2]


def test_bad_sources_of_the_other_commands_are_refused(
    paint: Callable[..., int], tmp_path: Path, tiny: Path, capfd: Capture
) -> None:
    source = str(tiny / "wuerstchen-prior" / "prior")
    for words, rule in (
        (["info", "nowhere"], "nowhere: "),
        (["convert", source], "OUT"),
        (["convert", source, "out.pt"], "out.pt"),
        (["convert", "nowhere", "out.safetensors"], "nowhere: "),
        (["convert", source, "out.safetensors", "--dtype", "fp8"], "--dtype"),
    ):
        assert rule in refused(lambda words=words: main(words), tmp_path, capfd)  # type: ignore[misc]


def test_a_command_without_its_source_says_how_to_paint_the_word(
    paint: Callable[..., int], tmp_path: Path, capfd: Capture
) -> None:
    for word in ("info", "convert"):
        line = refused(lambda word=word: main([word]), tmp_path, capfd)  # type: ignore[misc]
        assert f"{word} needs a SOURCE" in line
        assert f"write wuerstchen -- {word}" in line


@pytest.mark.parametrize("word", ["info", "convert"])
def test_a_command_behind_an_option_paints_nothing(
    word: str, paint: Callable[..., int], tmp_path: Path, capfd: Capture
) -> None:
    line = refused(lambda: main(["--device", "cpu", word, "a.safetensors"]), tmp_path, capfd)
    assert f"{word} comes first and has options of its own" in line


def test_two_dashes_paint_the_word_info(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*QUICK, "--model", str(tiny), "--device", "cpu", "--", "info"]) == 0
    assert about(tmp_path / "wuerstchen-output" / "00000.png")["prompt"] == "info"

"""The command line, as a user calls it: what it writes, what it prints, what it refuses."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import load_file, save_file

from wuerstchen import Settings, Wuerstchen, __version__, painting
from wuerstchen.__main__ import main
from wuerstchen.info import describe
from wuerstchen.options import parse
from wuerstchen.pictures import SOURCES, numbered, put_new, save
from wuerstchen.settings import PRESETS

from .peers import levels

PROMPT, OTHER = "a large red circle", "a green star"
QUICK = ["--width", "128", "--height", "128", "--steps", "2", "--decoder-steps", "1"]
ABOUT_THE_MODEL = (
    "model",
    "prior",
    "decoder",
    "stage_a",
    "compressor",
    "lora",
    "quantize",
    "version",
)
REPEATED = {
    **dict.fromkeys(ABOUT_THE_MODEL),
    **vars(Settings()),
    "prompt": PROMPT,
    "image": "old.png",
    "lora": ["style:1.0", "other"],
}
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def paint(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs the command line on the tiny model, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *words: main([*map(str, words), *QUICK, "--model", str(tiny), "--device", "cpu"])


def about(path: Path) -> dict[str, Any]:
    """What the file says of its settings."""
    facts: dict[str, Any] = json.loads(Image.open(path).text["wuerstchen"])  # type: ignore[attr-defined]
    return facts


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_prompt_becomes_a_numbered_png_whose_path_is_printed(
    paint: Callable[..., int], tmp_path: Path, capfd: Capture
) -> None:
    assert paint(PROMPT) == 0
    assert capfd.readouterr().out == f"{Path('wuerstchen-output', '00000.png')}\n"
    image = Image.open(tmp_path / "wuerstchen-output" / "00000.png")
    assert (image.format, image.mode, image.size) == ("PNG", "RGB", (128, 128))
    assert names(tmp_path) == ["wuerstchen-output"]


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


def test_a_file_name_is_taken_as_it_is_and_replaced(
    paint: Callable[..., int], tmp_path: Path
) -> None:
    for seed in (1, 2):
        assert paint(PROMPT, "--output", "new/star.png", "--seed", seed) == 0
        assert about(tmp_path / "new" / "star.png")["seed"] == seed
    assert names(tmp_path / "new") == ["star.png"]


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


def test_info_tells_what_a_checkpoint_is(tiny: Path, capfd: Capture) -> None:
    assert main(["info", str(tiny / "wuerstchen")]) == 0
    shown = capfd.readouterr().out
    assert "Stage B (the decoder)" in shown
    assert "Stage A (the VQGAN)" in shown
    assert "sha256" in shown


def test_a_converted_prior_paints_the_same_picture(
    paint: Callable[..., int], tiny: Path, tmp_path: Path, capfd: Capture
) -> None:
    source, out = tiny / "wuerstchen-prior" / "prior", tmp_path / "prior.safetensors"
    assert main(["convert", str(source), str(out), "--dtype", "fp32"]) == 0
    assert capfd.readouterr().out == f"{out}\n"
    assert paint(PROMPT, "--output", "a.png") == 0
    assert paint(PROMPT, "--prior", out, "--output", "b.png") == 0
    assert Image.open("a.png").tobytes() == Image.open("b.png").tobytes()


def refused(run: Callable[[], int], folder: Path, capfd: Capture) -> str:
    """The one line that a refused command says; it leaves nothing behind."""
    before = names(folder)
    capfd.readouterr()
    assert run() == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert names(folder) == before
    assert err.startswith("wuerstchen: error: ")
    assert err.count("\n") == 1
    return err


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
        (["--prior", "a*0.5+b*0.6"], "1.1"),
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


def test_a_command_without_its_source_says_how_to_paint_the_word(
    paint: Callable[..., int], tmp_path: Path, capfd: Capture
) -> None:
    for word in ("info", "convert"):
        line = refused(lambda word=word: main([word]), tmp_path, capfd)  # type: ignore[misc]
        assert f"{word} needs a SOURCE" in line
        assert f"write wuerstchen -- {word}" in line


def test_two_dashes_paint_the_word_info(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*QUICK, "--model", str(tiny), "--device", "cpu", "--", "info"]) == 0
    assert about(tmp_path / "wuerstchen-output" / "00000.png")["prompt"] == "info"


def test_no_prompt_is_refused(tmp_path: Path, capfd: Capture) -> None:
    line = refused(lambda: main([]), tmp_path, capfd)
    assert "a PROMPT is needed, got none (see wuerstchen --help)" in line


def test_bad_sources_of_the_other_commands_are_refused(
    paint: Callable[..., int], tmp_path: Path, tiny: Path, capfd: Capture
) -> None:
    source = str(tiny / "wuerstchen-prior" / "prior")
    for words in (
        ["info", "nowhere"],
        ["convert", source],
        ["convert", source, "out.pt"],
        ["convert", "nowhere", "out.safetensors"],
        ["convert", source, "out.safetensors", "--dtype", "fp8"],
    ):
        refused(lambda words=words: main(words), tmp_path, capfd)  # type: ignore[misc]


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


def test_ctrl_c_ends_in_one_line_and_status_130(
    paint: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Wuerstchen, "paint", interrupted)
    assert paint(PROMPT) == 130
    assert capfd.readouterr().err == "wuerstchen: interrupted\n"
    assert names(tmp_path) == []


def test_too_little_memory_is_said_with_what_needs_less(
    paint: Callable[..., int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: Capture
) -> None:
    def exhausted(*_: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")

    monkeypatch.setattr(Wuerstchen, "paint", exhausted)
    line = refused(lambda: paint(PROMPT), tmp_path, capfd)
    assert "too little memory for --device cpu; smaller are --offload stage" in line


@pytest.mark.parametrize(
    "said",
    [
        "MPS backend out of memory",
        "DefaultCPUAllocator: can't allocate memory",
        "DefaultCPUAllocator: not enough memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "Invalid buffer size: 18.00 GiB",
    ],
)
def test_too_little_memory_to_load_is_said_likewise(
    paint: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capfd: Capture,
    said: str,
) -> None:
    def exhausted(**_: object) -> None:
        raise RuntimeError(said)

    monkeypatch.setattr(Wuerstchen, "load", exhausted)
    assert "too little memory" in refused(lambda: paint(PROMPT), tmp_path, capfd)


def test_another_error_of_pytorch_is_not_taken_for_it(
    paint: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(**_: object) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(Wuerstchen, "load", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        paint(PROMPT)


def test_a_disk_that_is_full_leaves_no_half_written_file(tiny: Path, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="limits of file sizes are POSIX")

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    words = [PROMPT, *QUICK, "--model", str(tiny), "--device", "cpu", "--output", "out"]
    ran = subprocess.run(
        [sys.executable, "-m", "wuerstchen", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"},
        preexec_fn=fill,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 2
    assert ran.stderr.splitlines()[-1] == "wuerstchen: error: out/00000.png: File too large"
    assert ran.stdout == ""
    assert "Traceback" not in ran.stderr
    assert names(tmp_path / "out") == []


def test_importing_the_package_and_refusing_a_number_load_no_torch() -> None:
    code = (
        "import sys, wuerstchen; from wuerstchen.__main__ import main\n"
        "assert main(['a star', '--width', '1']) == 2\n"
        "assert not {'torch', 'transformers', 'PIL', 'numpy'} & set(sys.modules)"
    )
    here = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run([sys.executable, "-c", code], env=here, check=True, capture_output=True)


def test_help_and_version_end_with_status_0(capfd: Capture) -> None:
    for words in (["--help"], ["info", "--help"], ["convert", "--help"], ["--version"]):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 0
    assert f"wuerstchen {__version__}" in capfd.readouterr().out


def test_every_public_name_is_there() -> None:
    import wuerstchen

    assert all(getattr(wuerstchen, name) is not None for name in wuerstchen.__all__)
    assert set(wuerstchen.__all__) <= set(dir(wuerstchen))
    with pytest.raises(AttributeError, match="no attribute 'Sausage'"):
        _ = wuerstchen.Sausage  # type: ignore[attr-defined]


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


def test_images_and_loras_that_are_given_take_the_place_of_those_in_the_file(
    tmp_path: Path,
) -> None:
    save(Image.new("RGB", (8, 8)), tmp_path / "a.png", REPEATED)
    words = ["--from", str(tmp_path / "a.png")]
    kept, changed = parse(words), parse([*words, "--image", "new.png", "--lora", "style:0.5"])
    assert (kept.image, kept.lora) == (["old.png"], ["style:1.0", "other"])
    assert (changed.image, changed.lora) == (["new.png"], ["style:0.5"])


def test_a_preset_sets_what_is_not_given(paint: Callable[..., int], tmp_path: Path) -> None:
    assert paint(PROMPT, "--preset", "fast", "--output", "a.png") == 0
    facts = about(tmp_path / "a.png")
    assert facts["sampler"] == PRESETS["fast"]["sampler"] != "ddpm"
    assert facts["steps"] == 2  # given by the fixture


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
    monkeypatch.chdir(tmp_path)
    for name, width in (("a.png", 128), ("b.png", 256), ("c.png", 100)):
        Image.new("RGB", (width, 128)).save(tmp_path / name)
    monkeypatch.setattr(Wuerstchen, "load", None)
    assert message in refused(lambda: main(words), tmp_path, capfd)


def test_two_programs_that_fill_one_folder_lose_no_picture(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from PIL import Image; from wuerstchen.pictures import save\n"
        "image = Image.effect_noise((256, 256), 50)\n"
        "for _ in range(20): save(image, Path('out'), {'prompts': []})"
    )
    here = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    both = [subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=here) for _ in "ab"]
    assert [one.wait() for one in both] == [0, 0]
    assert names(tmp_path / "out") == [f"{number:05d}.png" for number in range(40)]


def test_a_number_that_another_run_took_meanwhile_is_passed_over(tmp_path: Path) -> None:
    part, taken = tmp_path / "part", tmp_path / "00007.png"
    part.write_text("ours")
    taken.write_text("theirs")
    assert put_new(part, taken).read_text() == "ours"
    assert taken.read_text() == "theirs"
    assert (tmp_path / "00008.png").read_text() == "ours"


def test_pictures_of_a_path_are_on_the_disk_as_they_are_painted(tmp_path: Path) -> None:
    words = [PROMPT, OTHER, "--interpolate", "5", "--batch", "2", *QUICK]
    told = painting.paint(parse([*words, "--output", str(tmp_path)]))
    for count in (1, 2, 3):
        next(told)
        assert len(names(tmp_path)) == count
    told.close()  # type: ignore[attr-defined]
    assert names(tmp_path) == ["00000.png", "00001.png", "00002.png"]
    assert about(tmp_path / "00002.png")["batch"] == 2


def test_behind_two_dashes_everything_is_a_prompt() -> None:
    for before in ([], ["a star"]):
        args = parse([*before, "--seed", "3", "--", "-blue", "--seed", "--"])
        assert (args.wanted, args.seed) == ([*before, "-blue", "--seed", "--"], 3)


def test_the_home_folder_is_known_behind_an_equals_sign() -> None:
    args = parse(["--output=~/pictures", "--prompts=~/p.txt", "--image=~x.png"])
    assert args.output == Path.home() / "pictures"
    assert args.prompts == Path.home() / "p.txt"
    assert parse(["--output=~x.png"]).output == Path("~x.png")


def program(code: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run code as a program of its own."""
    here = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), **variables}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=here, capture_output=True, text=True
    )


def test_names_that_the_terminal_lacks_are_printed_as_escapes(tmp_path: Path) -> None:
    code = "import sys; from wuerstchen.__main__ import main; sys.argv[1:] = ['--help']; main()"
    ran = program(code, tmp_path, PYTHONIOENCODING="ascii")
    assert ran.returncode == 0
    assert "W\\xfcrstchen" in ran.stdout


def test_a_picture_painted_over_a_file_with_an_undecodable_name_is_written(tmp_path: Path) -> None:
    facts = {**REPEATED, "image": "caf\udce9.png"}
    saved = save(Image.new("RGB", (8, 8)), tmp_path / "a.png", facts)
    assert about(saved)["image"] == "caf\udce9.png"


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
def test_sigterm_leaves_no_half_written_file(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from wuerstchen import __main__; from wuerstchen.writing import appearing\n"
        "def command(words):\n"
        "    with appearing(Path('a.png')) as part:\n"
        "        part.write_text('half'); os.kill(os.getpid(), signal.SIGTERM)\n"
        "__main__.command = command; sys.exit(__main__.main())"
    )
    assert program(code, tmp_path).returncode == 143
    assert names(tmp_path) == []


def test_one_network_of_several_can_be_converted(tmp_path: Path, tiny: Path) -> None:
    out = tmp_path / "a.safetensors"
    assert main(["convert", str(tiny / "wuerstchen"), str(out), "--kind", "stage_a"]) == 0
    assert describe(out)[0].kind == "stage_a"


def test_an_error_without_words_has_its_name(
    paint: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: Any
) -> None:
    def exhausted(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Wuerstchen, "paint", exhausted)
    assert refused(lambda: paint(PROMPT), tmp_path, capfd) == "wuerstchen: error: MemoryError\n"


def test_info_tells_the_precision_and_the_size_of_the_file(tiny: Path, capfd: Any) -> None:
    assert main(["info", str(tiny / "wuerstchen" / "decoder")]) == 0
    lines = dict(line.split(maxsplit=1) for line in capfd.readouterr().out.splitlines() if line)
    assert lines["dtypes"] == "float32"
    assert (
        int(lines["bytes"].replace(",", ""))
        == (tiny / "wuerstchen" / "decoder" / "diffusion_pytorch_model.safetensors").stat().st_size
    )
    assert "," in lines["bytes"]


def test_two_pictures_need_a_folder(paint: Any, tmp_path: Path, capfd: Any) -> None:
    line = refused(lambda: paint(PROMPT, OTHER, "--output", "a.png"), tmp_path, capfd)
    assert "2 images need a folder as --output" in line


def test_a_decoder_that_is_not_there_is_told_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setattr(Wuerstchen, "load", None)
    assert "nowhere.pt: expected" in refused(
        lambda: main([PROMPT, "--decoder", "nowhere.pt"]), tmp_path, capfd
    )


def test_a_file_of_prompts_takes_one_image_at_most(paint: Any, tmp_path: Path, capfd: Any) -> None:
    (tmp_path / "p.txt").write_text("a star")
    Image.new("RGB", (128, 128)).save(tmp_path / "a.png")
    words = ["--prompts", "p.txt", "--image", "a.png", "--image", "a.png"]
    assert "--prompts FILE stands alone" in refused(lambda: paint(*words), tmp_path, capfd)


def test_a_sheet_repeats_all_of_its_pictures(paint: Any, tmp_path: Path) -> None:
    assert paint(PROMPT, OTHER, "--batch", 2, "--seed", 5, "--grid", "--output", "a") == 0
    assert paint("--from", "a/00000-00003-grid.png", "--output", "b") == 0
    for i in range(4):
        name = f"0000{i}.png"
        assert (tmp_path / "b" / name).read_bytes() == (tmp_path / "a" / name).read_bytes()


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


def test_numbers_may_have_more_digits(tmp_path: Path) -> None:
    for name in ("99999.png", "100000.png"):
        (tmp_path / name).touch()
    assert numbered(tmp_path).name == "100001.png"


def test_prompts_are_readable_in_any_script(tmp_path: Path) -> None:
    saved = save(
        Image.new("RGB", (8, 8)), tmp_path / "a.png", {**REPEATED, "prompt": "日本の café"}
    )
    assert Image.open(saved).text["parameters"].startswith("日本の café\n")
    assert about(saved)["prompt"] == "日本の café"


def test_a_path_needs_a_folder(paint: Any, tmp_path: Path, capfd: Any) -> None:
    line = refused(
        lambda: paint(PROMPT, OTHER, "--interpolate", 3, "--output", "a.png"), tmp_path, capfd
    )
    assert "3 images need a folder as --output" in line


def test_a_name_in_capitals_is_one_picture_too(paint: Any, tmp_path: Path) -> None:
    assert paint(PROMPT, "--output", "A.PNG") == 0
    assert (tmp_path / "A.PNG").is_file()


def test_a_path_takes_as_many_prompts_as_images(
    paint: Callable[..., int], tmp_path: Path, capfd: Capture
) -> None:
    Image.new("RGB", (128, 128)).save(tmp_path / "a.png")
    words = [PROMPT, OTHER, "--interpolate", 3, *["--image", "a.png"] * 3]
    line = refused(lambda: paint(*words), tmp_path, capfd)
    assert "needs as many prompts as images, or one, got 2 prompts and 3 images" in line


def test_the_sheet_of_a_path_is_a_row(paint: Callable[..., int], tmp_path: Path) -> None:
    assert paint(PROMPT, OTHER, "--interpolate", 3, "--grid", "--output", "path") == 0
    with Image.open(tmp_path / "path" / "00000-00002-grid.png") as sheet:
        assert sheet.size == (3 * 128, 128)


@pytest.mark.parametrize("word", ["info", "convert"])
def test_a_command_behind_an_option_paints_nothing(
    word: str, paint: Callable[..., int], tmp_path: Path, capfd: Capture
) -> None:
    line = refused(lambda: main(["--device", "cpu", word, "a.safetensors"]), tmp_path, capfd)
    assert f"{word} comes first and has options of its own" in line


def test_a_name_of_the_greatest_length_is_written(
    paint: Callable[..., int], tmp_path: Path
) -> None:
    name = "x" * 251 + ".png"
    assert paint(PROMPT, "--output", name) == 0
    assert names(tmp_path) == [name]


def test_a_picture_does_not_replace_what_it_is_painted_over(tmp_path: Path, capfd: Capture) -> None:
    image = str(tmp_path / "a.png")
    Image.effect_noise((128, 128), 50).convert("RGB").save(image)
    before = Path(image).read_bytes()
    words = [PROMPT, "--image", image, "--output", image, "--device", "cpu"]
    assert main(words) == 2
    assert "--output must not be the picture to paint over" in capfd.readouterr().err
    assert Path(image).read_bytes() == before


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names are Unicode there")
def test_a_file_name_may_be_no_utf_8(paint: Callable[..., int], tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    assert paint(PROMPT, "--output", name) == 0
    assert names(tmp_path) == [name]

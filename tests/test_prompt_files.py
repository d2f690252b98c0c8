"""Files of prompts: what they may hold, what is refused, and folders that fill after interruptions."""

import io
import json
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from wuerstchen import Settings, Wuerstchen, __version__
from wuerstchen.__main__ import main
from wuerstchen.command_line.manifest import write_manifest
from wuerstchen.command_line.pictures import read_metadata
from wuerstchen.prompt_files import read_jobs

from .command_line.calls import about
from .lora.lora_tensors import random_pair

QUICK = [
    *("--width", "128", "--height", "128", "--steps", "2", "--decoder-steps", "1"),
    *("--device", "cpu"),
]
TEXT = "a red circle\n\n  a green star\n"
CSV = 'prompt,seed,negative,batch\n"a red circle, large",7,,2\na green star,,blue,\n'
JSON = '{"prompt": "a red circle", "seed": 7, "outpaint": [0, 0, 0, 0]}\n"a green star"\n'


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def run(folder: Path, source: Path, *words: str) -> int:
    return main(["--prompts", str(source), "--output", str(folder), *QUICK, *words])


def test_a_text_file_has_a_prompt_per_line(tmp_path: Path) -> None:
    rows = read_jobs(write(tmp_path, "p.txt", TEXT), Settings(seed=3))
    jobs = [(job.file, job.prompt, job.settings.seed) for row in rows for job in row]
    assert jobs == [("00000.png", "a red circle", 3), ("00001.png", "a green star", 3)]


def test_a_table_has_settings_of_its_own_and_batches(tmp_path: Path) -> None:
    rows = read_jobs(write(tmp_path, "p.csv", CSV), Settings(seed=1, decoder_seed=4))
    assert [[job.file for job in row] for row in rows] == [
        ["00000.png", "00001.png"],
        ["00002.png"],
    ]
    first, second = rows[0][1].settings, rows[1][0].settings
    assert rows[0][0].prompt == "a red circle, large"
    assert (first.seed, first.decoder_seed, first.batch, first.negative) == (8, 5, 1, "")
    assert (second.seed, second.decoder_seed, second.negative) == (1, 4, "blue")


def test_objects_and_bare_texts_may_stand_on_lines_of_json(tmp_path: Path) -> None:
    rows = read_jobs(write(tmp_path, "p.jsonl", JSON), Settings())
    assert [row[0].prompt for row in rows] == ["a red circle", "a green star"]
    assert rows[0][0].settings.seed == 7


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.doc", "a", "a prompt file must end in .txt, .csv or .jsonl"),
        ("p.txt", "\n\n", "expected at least one prompt, found none"),
        ("p.csv", "prompt,sed\na,1\n", "line 2: a setting must be one of .*, got 'sed'"),
        ("p.csv", "prompt,seed\na,1\nb,x\n", "line 3: seed must be a whole number, got 'x'"),
        ("p.csv", "prompt,width\na,100\n", "line 2: width must be .* at least 128.*, got 100"),
        ("p.csv", "prompt\na,b,c\n", "line 2 has more cells than the header"),
        ("p.csv", "prompts\na\n", "line 2: expected a prompt, found None"),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt"\n', "line 2: expected a JSON object"),
        ("p.jsonl", "[1]\n", "line 1: expected a prompt"),
        ("p.jsonl", '{"prompt": "a", "steps": [1]}', "line 1: steps must be a whole number"),
        ("p.jsonl", '{"prompt": "caf\\udce9"}', "line 1: prompt must be text in UTF-8"),
        ("p.jsonl", "[" * 100_000, "line 1: expected a JSON object"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_its_line(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read_jobs(write(tmp_path, name, text), Settings())


def test_a_folder_is_filled_and_says_what_is_in_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source, folder = write(tmp_path, "p.csv", CSV), tmp_path / "out"
    assert run(folder, source) == 0
    assert "3 pictures, 3 of them new" in capfd.readouterr().out
    lines = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    assert [line["file"] for line in lines] == ["00000.png", "00001.png", "00002.png"]
    for line in lines:
        facts = read_metadata(folder / line["file"])
        assert facts["wanted"] == [line["prompt"]]
        assert (facts["seed"], facts["negative"]) == (line["seed"], line["negative"])
    assert {path.name for path in folder.iterdir()} == {line["file"] for line in lines} | {
        "manifest.jsonl"
    }


def test_an_interrupted_folder_goes_on_with_what_is_missing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source, folder = write(tmp_path, "p.csv", CSV), tmp_path / "out"
    assert run(folder, source) == 0
    lost = folder / "00001.png"
    before = lost.read_bytes()
    lost.unlink()
    stamps = {path: path.stat().st_mtime_ns for path in folder.glob("*.png")}
    time.sleep(0.01)
    assert run(folder, source) == 0
    assert "3 pictures, 1 of them new" in capfd.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    first, again = (np.asarray(Image.open(io.BytesIO(b))) for b in (before, lost.read_bytes()))
    assert abs(first.astype(int) - again).max() <= 1  # it is painted alone now, not in a batch


def test_more_prompts_may_follow_and_other_ones_are_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source, folder = write(tmp_path, "p.txt", "a red circle\n"), tmp_path / "out"
    assert run(folder, source) == 0
    write(tmp_path, "p.txt", "a red circle\na green star\n")
    assert run(folder, source) == 0
    assert "2 pictures, 1 of them new" in capfd.readouterr().out
    before = (folder / "manifest.jsonl").read_bytes()
    assert run(folder, source, "--seed", "5") == 2
    assert "is of other prompts, settings or sources" in capfd.readouterr().err
    assert run(folder, write(tmp_path, "q.txt", "a star\n")) == 2
    assert (folder / "manifest.jsonl").read_bytes() == before


def test_a_newer_version_goes_on_but_other_weights_do_not(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source, folder = write(tmp_path, "p.txt", "a red circle\n"), tmp_path / "out"
    assert run(folder, source) == 0
    manifest = folder / "manifest.jsonl"
    older = manifest.read_text().replace(f'"{__version__}"', '"0.0.1"')
    manifest.write_text(older.replace('"quantize": "none", ', ""))
    assert manifest.read_text().count("quantize") == 0
    assert run(folder, source) == 0
    assert "1 pictures, 0 of them new" in capfd.readouterr().out
    assert run(folder, source, "--quantize", "int8") == 2
    assert "is of other prompts, settings or sources" in capfd.readouterr().err
    for damaged in ('{"file": "00', "[]", "7", "[1]"):
        manifest.write_text(f"{damaged}\n")
        assert run(folder, source) == 2
        assert f"{manifest} is of other prompts" in capfd.readouterr().err


def test_only_ends_of_lines_end_a_prompt(tmp_path: Path) -> None:
    breaks = "a red\u2028circle\x0bon\x85blue"
    rows = {"p.txt": breaks, "p.jsonl": json.dumps({"prompt": breaks}, ensure_ascii=False)}
    for name, text in rows.items():
        ((job,),) = read_jobs(write(tmp_path, name, text + "\r\n"), Settings())
        assert job.prompt == breaks


def test_pictures_of_another_run_are_not_taken_for_its_own(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "00000.png").write_bytes(b"mine")
    assert run(folder, write(tmp_path, "p.txt", TEXT)) == 2
    assert "holds 00000.png of another run" in capfd.readouterr().err
    assert (folder / "00000.png").read_bytes() == b"mine"


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals there")
def test_ctrl_c_leaves_whole_pictures_and_the_next_run_does_the_rest(tmp_path: Path) -> None:
    source = write(tmp_path, "p.txt", "a red circle\n" * 12)
    folder = tmp_path / "out"
    words = ["--prompts", str(source), "--output", str(folder), "--width", "128"]
    command = [sys.executable, "-m", "wuerstchen", *words, "--height", "128", "--steps", "8"]
    heard = partial(
        signal.signal, signal.SIGINT, signal.SIG_DFL
    )  # in the background nobody hears it
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    running = subprocess.Popen(command, **pipes, text=True, preexec_fn=heard)
    wait = time.monotonic() + 120
    while not list(folder.glob("*.png")) and running.poll() is None and time.monotonic() < wait:
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 130
    assert errors.rstrip().endswith("wuerstchen: interrupted")
    done = {path: path.read_bytes() for path in folder.glob("*.png")}
    assert 1 <= len(done) < 12
    assert not list(folder.glob(".*"))
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"12 pictures, {12 - len(done)} of them new" in again.stdout
    assert {path: path.read_bytes() for path in done} == done
    assert len(list(folder.glob("*.png"))) == 12


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Prompt;Seed\na star;1\n;\n", "utf-8"),
        ("prompt\tseed\r\na star\t1\r\n", "utf-16"),
        ("prompt,seed\na star,1\n,\n,\n", "utf-8-sig"),
    ],
)
def test_tables_are_read_as_spreadsheets_write_them(
    tmp_path: Path, text: str, encoding: str
) -> None:
    (tmp_path / "p.csv").write_bytes(text.encode(encoding))
    ((job,),) = read_jobs(tmp_path / "p.csv", Settings())
    assert (job.prompt, job.settings.seed) == ("a star", 1)


def test_tables_may_have_gaps_in_columns_of_whole_numbers_and_empty_columns(tmp_path: Path) -> None:
    table = "prompt,seed,steps,,\na cat,3.0,,,\na dog,,5.0,,\n"
    jobs = [row[0].settings for row in read_jobs(write(tmp_path, "p.csv", table), Settings(seed=9))]
    assert [(s.seed, s.steps) for s in jobs] == [(3, None), (9, 5)]


def test_a_list_may_have_the_settings_of_a_picture(tmp_path: Path) -> None:
    before = ["--output", str(tmp_path / "a.png"), *QUICK, "--seed", "7"]
    assert main(["a yellow cross", *before]) == 0
    source = write(tmp_path, "p.txt", "a star")
    assert run(tmp_path / "out", source, "--from", str(tmp_path / "a.png")) == 0
    found = read_metadata(tmp_path / "out" / "00000.png")
    assert (found["wanted"], found["seed"]) == (["a star"], 7)


def test_a_file_in_another_encoding_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_bytes("café".encode("latin-1"))
    with pytest.raises(ValueError, match=r"p\.txt: expected text in UTF-8, save it as such"):
        read_jobs(tmp_path / "p.txt", Settings())


def test_options_for_an_image_go_with_the_images_of_a_table(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    Image.effect_noise((128, 128), 50).save(tmp_path / "a.png")
    source = write(tmp_path, "p.csv", f"prompt,image\na star,{tmp_path / 'a.png'}\n")
    assert run(tmp_path / "out", source, "--strength", "0.5") == 0
    assert read_metadata(tmp_path / "out" / "00000.png")["strength"] == 0.5
    assert run(tmp_path / "no", write(tmp_path, "p.txt", "a star"), "--strength", "0.5") == 2
    assert "line 1: give an image to paint over, or no strength" in capfd.readouterr().err


def test_a_picture_of_another_run_is_not_taken_for_a_prompt_that_is_added(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source, folder = write(tmp_path, "p.txt", TEXT), tmp_path / "out"
    assert run(folder, source) == 0
    assert main(["a yellow cross", "--output", str(folder), *QUICK]) == 0
    before = (folder / "manifest.jsonl").read_bytes()
    write(tmp_path, "p.txt", TEXT + "a blue ring\n")
    assert run(folder, source) == 2
    assert "holds 00002.png of another run" in capfd.readouterr().err
    assert (folder / "manifest.jsonl").read_bytes() == before


def test_another_run_leaves_the_names_of_an_interrupted_list_free(tmp_path: Path) -> None:
    source, folder = write(tmp_path, "p.txt", TEXT), tmp_path / "out"
    assert run(folder, source) == 0
    (folder / "00001.png").unlink()
    assert main(["a yellow cross", "--output", str(folder), *QUICK]) == 0
    assert read_metadata(folder / "00002.png")["wanted"] == ["a yellow cross"]
    assert run(folder, source) == 0
    assert read_metadata(folder / "00001.png")["wanted"] == ["a green star"]


def test_what_is_refused_for_its_model_leaves_the_folder_to_the_next_run(tmp_path: Path) -> None:
    source, folder = write(tmp_path, "p.txt", TEXT), tmp_path / "out"
    assert run(folder, source, "--model", "vv") == 2
    assert not folder.exists()
    folder.mkdir()
    write(folder, "manifest.jsonl", '{"file": "00000.png", "prompt": "another"}\n')
    assert run(folder, source) == 0


def test_what_another_run_painted_meanwhile_is_not_painted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    source, folder, paint = write(tmp_path, "p.txt", TEXT), tmp_path / "out", Wuerstchen.paint

    def meanwhile(*given: Any) -> list[Image.Image]:
        (folder / "00001.png").write_bytes(b"of the other run")
        return paint(*given)

    monkeypatch.setattr(Wuerstchen, "paint", meanwhile)
    assert run(folder, source) == 0
    assert "2 pictures, 1 of them new" in capfd.readouterr().out
    assert (folder / "00001.png").read_bytes() == b"of the other run"


def test_the_native_size_is_written_down(tiny: Path, tmp_path: Path) -> None:
    words = [
        "--prompts",
        str(write(tmp_path, "p.txt", "a star")),
        "--output",
        str(tmp_path / "out"),
    ]
    quick = ["--steps", "1", "--decoder-steps", "1", "--device", "cpu", "--model", str(tiny)]
    assert main([*words, *quick]) == 0
    facts = about(tmp_path / "out" / "00000.png")
    assert (facts["width"], facts["height"]) == (256, 256)


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("prompt, Seed \na star, 1\n", "utf-8"),
        ("\ufeffprompt,seed\na star,1\n", "utf-16-be"),
    ],
)
def test_headers_may_have_spaces_and_capitals_and_the_marks_of_utf_16(
    tmp_path: Path, text: str, encoding: str
) -> None:
    (tmp_path / "p.csv").write_bytes(text.encode(encoding))
    ((job,),) = read_jobs(tmp_path / "p.csv", Settings())
    assert (job.prompt, job.settings.seed) == ("a star", 1)


def test_a_quote_that_is_never_closed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"p\.csv: unexpected end of data"):
        read_jobs(write(tmp_path, "p.csv", 'prompt\n"a star\na ring\n'), Settings())


def test_a_manifest_is_whole_or_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_manifest(tmp_path, "old\n")
    plain = Path.write_text

    def full(path: Path, text: str, **how: Any) -> int:
        plain(path, text[:2], **how)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        write_manifest(tmp_path, "new\n")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [
        ("manifest.jsonl", "old\n")
    ]


def test_a_file_of_prompts_is_painted_with_the_lora(tiny: Path, tmp_path: Path) -> None:
    lora, source = tmp_path / "lora.safetensors", write(tmp_path, "p.txt", "a star\n")
    save_file(random_pair("prior.blocks.2.attention.to_k"), lora)
    quick = ["--model", str(tiny), "--device", "cpu"]
    assert (
        run(tmp_path / "a", source, *quick)
        == run(tmp_path / "b", source, *quick, "--lora", f"{lora}:3")
        == 0
    )
    pictures = [Image.open(tmp_path / name / "00000.png").tobytes() for name in "ab"]
    assert pictures[0] != pictures[1]


@pytest.mark.parametrize("text", [b'{"file_name": "cat.jpg", "text": "a cat"}\n', b"\xff\n"])
def test_a_manifest_of_something_else_is_kept(
    text: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source, folder = write(tmp_path, "p.txt", TEXT), tmp_path / "data"
    folder.mkdir()
    (folder / "manifest.jsonl").write_bytes(text)
    assert run(folder, source) == 2
    assert "is of other prompts, settings or sources" in capfd.readouterr().err
    assert (folder / "manifest.jsonl").read_bytes() == text

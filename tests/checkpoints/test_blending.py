"""Blends of real files of tiny networks, and the words that ask for them."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from wuerstchen.__main__ import main
from wuerstchen.checkpoints.blending import mean
from wuerstchen.checkpoints.converting import convert
from wuerstchen.checkpoints.files import METADATA_CONFIG
from wuerstchen.checkpoints.info import describe
from wuerstchen.checkpoints.loading import KINDS, CheckpointError, load_network
from wuerstchen.checkpoints.notation import parse_blend
from wuerstchen.placement import Placement

from .checkpoint_files import TINY, component, original

FP32, FP16 = Placement(), Placement(dtype=torch.float16)
State = dict[str, Tensor]


def state(kind: str, seed: int, dtype: torch.dtype = torch.float32) -> State:
    """Return random weights of the tiny network; `num_batches_tracked` is the seed."""
    generator = torch.Generator().manual_seed(seed)
    own = KINDS[kind].network(TINY[kind]).state_dict()
    return {
        key: (torch.randn(tensor.shape, generator=generator).abs() + 0.1).to(dtype)
        if tensor.is_floating_point()
        else torch.tensor(seed)
        for key, tensor in own.items()
    }


def written(path: Path, tensors: State, kind: str = "stage_c") -> str:
    config = {METADATA_CONFIG: json.dumps(asdict(TINY[kind]))}
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path, config)
    return str(path)


def two(
    folder: Path, kind: str = "stage_c", dtype: torch.dtype = torch.float32
) -> tuple[State, State, str, str]:
    """Return two state dicts and the files that hold them."""
    a, b = state(kind, 1, dtype), state(kind, 2, dtype)
    files = [
        written(folder / name, tensors, kind)
        for name, tensors in {"a.safetensors": a, "b+.safetensors": b}.items()
    ]
    return a, b, files[0], files[1]


def assert_same(loaded: State, expected: State) -> None:
    assert list(loaded) == list(expected)
    for key, tensor in expected.items():
        assert loaded[key].dtype == tensor.dtype, key
        assert torch.equal(loaded[key], tensor), key


def lerp(a: State, b: State, share: float) -> State:
    """Return the mean of two state dicts; whole numbers are those of the first."""
    floats = {key for key, tensor in a.items() if tensor.is_floating_point()}
    return {key: torch.lerp(a[key], b[key], share) if key in floats else a[key] for key in a}


@pytest.mark.parametrize("kind", KINDS)
def test_a_blend_of_two_is_torch_lerp_to_the_last_bit(tmp_path: Path, kind: str) -> None:
    a, b, file_a, file_b = two(tmp_path, kind)
    for share in (0.5, 0.3, 0.75, -0.5):
        network = load_network(f"{file_a}*{1 - share:g} + {file_b}*{share}", kind, FP32)
        assert_same(network.state_dict(), lerp(a, b, share))
        assert not network.training


def test_a_share_of_1_gives_the_very_weights_and_one_of_0_none(tmp_path: Path) -> None:
    a, b, file_a, file_b = two(tmp_path)
    a["projection.weight"].view(-1)[0] = -0.0
    b["projection.weight"].view(-1)[0] = float("nan")
    written(Path(file_a), a)
    written(Path(file_b), b)
    for blend in (f"{file_a}*1+{file_b}*0", f"{file_b}*0+{file_a}*1", f"{file_a}*1"):
        loaded = load_network(blend, "stage_c", FP32).state_dict()
        assert_same(loaded, a)
        assert loaded["projection.weight"].view(-1)[0].signbit()


def test_files_in_half_are_blended_in_float32_and_cast_once(tmp_path: Path) -> None:
    a, b, file_a, file_b = two(tmp_path, dtype=torch.float16)
    exact = lerp({k: t.float() for k, t in a.items()}, {k: t.float() for k, t in b.items()}, 0.3)
    blend = f"{file_a}*0.7+{file_b}*0.3"
    assert_same(load_network(blend, "stage_c", FP32).state_dict(), exact)
    halves = {key: tensor.half() for key, tensor in exact.items()}
    assert_same(load_network(blend, "stage_c", FP16).state_dict(), halves)
    in_half = {key: a[key] * 0.7 + b[key] * 0.3 for key in a}
    assert any(not torch.equal(halves[key], in_half[key]) for key in a)


def test_shares_of_any_sign_and_order_weigh_the_sum() -> None:
    a, b, c = (torch.randn(1000, generator=torch.Generator().manual_seed(i)) for i in range(3))
    for shares in ((1, 1, -1), (-1, 1, 1), (0.2, 0.3, 0.5), (-2, 2.5, 0.5), (-0.5, 1.5, 0)):
        exact = sum(share * t.double() for share, t in zip(shares, (a, b, c), strict=True))
        blended = mean(list(zip((a, b, c), shares, strict=True)))
        assert blended.dtype == torch.float32
        torch.testing.assert_close(blended.double(), exact, rtol=1e-5, atol=3e-6)


def test_a_mean_of_thirds_is_one_of_equal_parts() -> None:
    a, b, c = (torch.full((2,), value) for value in (1.0, 2.0, 6.0))
    assert mean([(a, 0.333), (b, 0.333), (c, 0.333)]).tolist() == pytest.approx([3, 3])


@pytest.mark.parametrize("kind", ["stage_a", "stage_b", "stage_c"])
def test_layouts_and_kinds_of_sources_can_be_mixed(tmp_path: Path, kind: str) -> None:
    a, b, _, file_b = two(tmp_path, kind)
    folder = component(tmp_path / "folder", kind)
    weights = folder / "diffusion_pytorch_model.safetensors"
    written(weights, a, kind)
    training = {"ema_state_dict": original(a), "step": 5}
    torch.save(training, tmp_path / "authors.pt")
    torch.save({"epoch": 3, **original(a)}, tmp_path / "flat.pt")
    for source in (folder, weights, tmp_path / "authors.pt", tmp_path / "flat.pt"):
        loaded = load_network(f"{source}*0.7+{file_b}*0.3", kind, FP32).state_dict()
        assert_same(loaded, lerp(a, b, 0.3))
        loaded = load_network(f"{file_b}*0.7+{source}*0.3", kind, FP32).state_dict()
        assert_same(loaded, lerp(b, a, 0.3))


def test_files_are_left_as_they_are(tmp_path: Path) -> None:
    _, _, file_a, file_b = two(tmp_path)
    before = Path(file_a).read_bytes(), Path(file_b).read_bytes()
    for blend in (f"{file_a}*0.5+{file_b}*0.5", f"{file_a}*2+{file_b}*-1"):
        load_network(blend, "stage_c", FP32)
    assert (Path(file_a).read_bytes(), Path(file_b).read_bytes()) == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_blend_can_be_written_as_a_file(tmp_path: Path, kind: str) -> None:
    _, _, file_a, file_b = two(tmp_path, kind, torch.float16)
    out, blend = tmp_path / "out.safetensors", f"{file_a}*0.25+{file_b}*0.75"
    assert main(["convert", blend, str(out), "--dtype", "fp32"]) == 0
    exact = load_network(blend, kind, FP32).state_dict()
    named = {KINDS[kind].prefix + key: tensor for key, tensor in exact.items()}
    assert_same(load_file(out), {key: named[key] for key in load_file(out)})
    assert_same(load_network(out, kind, FP32).state_dict(), exact)
    convert(blend, out)
    assert {t.dtype for t in load_file(out).values()} <= {torch.float16, torch.int64}
    assert_same(
        load_network(out, kind, FP16).state_dict(), load_network(blend, kind, FP16).state_dict()
    )


def refused(source: str | Path, kind: str = "stage_c") -> str:
    """Return the one line of the refusal."""
    with pytest.raises(CheckpointError) as caught:
        load_network(source, kind, FP32)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 700
    return text


def test_the_first_tensor_that_differs_is_named_with_both_files(tmp_path: Path) -> None:
    a, b, file_a, file_b = two(tmp_path)
    blend = f"{file_a}*0.5+{file_b}*0.5"
    key = "blocks.0.depthwise.weight"
    written(Path(file_b), b | {key: torch.ones(64, 1, 5, 5)})
    text = refused(blend)
    assert text.startswith(f"{file_b}: expected the shapes of {file_a}")
    assert f"found {key} [64, 1, 5, 5] instead of [64, 1, 3, 3];" in text
    written(Path(file_b), {name: tensor for name, tensor in b.items() if name != key})
    assert f"found {key} missing instead of [64, 1, 3, 3];" in refused(blend)
    written(Path(file_b), b | {key: b[key].int()})
    assert f"found {key} [64, 1, 3, 3] of whole numbers instead of [64" in refused(blend)
    written(Path(file_b), b | {"more": torch.ones(2)})
    assert "found more [2] instead of missing;" in refused(blend)
    written(Path(file_a), a | {"more": torch.ones(2)})
    assert refused(blend).startswith(f"{blend}: expected Stage C (the prior) with")


def test_a_part_that_cannot_be_used_is_refused_by_its_own_name(tmp_path: Path) -> None:
    _, _, file_a, _ = two(tmp_path)
    missing = tmp_path / "no.safetensors"
    assert refused(f"{file_a}*0.5+{missing}*0.5").startswith(f"{missing}: expected")
    other = written(tmp_path / "other.safetensors", state("stage_a", 1), "stage_a")
    text = refused(f"{file_a}*0.5+{other}*0.5")
    assert text.startswith(f"{other}: expected Stage C (the prior), this is Stage A")
    with pytest.raises(CheckpointError, match="to be blended, found"):
        convert(f"{file_a}*0.5+{other}*0.5", tmp_path / "out.safetensors")
    with pytest.raises(ValueError, match="kind must be one of"):
        load_network(f"{file_a}*1", "stage_d", FP32)


def test_info_takes_one_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, _, file_a, file_b = two(tmp_path)
    blend = f"{file_a}*0.5+{file_b}*0.5"
    with pytest.raises(CheckpointError, match="expected one checkpoint, found a blend; give one"):
        describe(blend)
    assert main(["info", blend]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_what_exists_and_a_path_are_no_blend(tmp_path: Path) -> None:
    tensors = state("stage_c", 1)
    name = written(tmp_path / "a*0.5+b*0.7", tensors)
    assert parse_blend(name) is None
    assert parse_blend(Path("a*0.5+b*0.5")) is None
    assert "found nothing at this path" in refused(Path("a*0.5+b*0.5"))

"""What can be seen only from inside the host's Python: import, memory, the host's newest layers."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from wuerstchen.allocator import IS_GLIBC

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def check(checkout: Path) -> Any:
    """What runs a check of the folder `inside` and returns what it found."""
    python = os.environ.get("COMFYUI_PYTHON", sys.executable)
    program = str(Path(__file__).with_name("inside"))

    def found(name: str) -> dict[str, Any]:
        command = [python, program, str(checkout), name]
        done = subprocess.run(command, cwd=checkout, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return answer

    return found


def test_the_nodes_cost_little_beside_the_hosts_own_and_import_no_model_library(
    check: Any,
) -> None:
    found = check("starting.importing")
    assert found["nodes"] == 18
    assert found["seconds"] < 0.15 * found["seconds of the host's own"]
    assert found["new"] == []


def test_a_loader_tells_when_its_file_was_written_if_it_knows_the_file(check: Any) -> None:
    found = check("starting.fingerprints")
    assert found["bundled"][0] > 0
    assert found["absent"] == found["absent prompts"] == [0]
    assert found["linked"] == []


def test_a_file_of_prompts_that_is_gone_is_named_with_its_place(check: Any) -> None:
    said = check("starting.missing_prompts")["said"]
    assert said == (
        "nowhere.txt is not in ComfyUI's input folder; put it there, or choose another file"
    )


def test_with_memory_for_half_of_every_network_nothing_changes(check: Any) -> None:
    found = check("memory.half_loaded")
    assert found["loads"] >= 5
    assert found["largest share"] <= 0.5
    assert found["differences"] == {"fp32": 0.0, "bf16": 0.0, "fp16": 0.0}


def test_a_merge_with_memory_for_half_of_it_is_the_same(check: Any) -> None:
    found = check("memory.merged_in_part")
    assert found["merge"] > 0.01
    assert found["half of it"] == found["afterwards"] == 0


@pytest.mark.skipif(not IS_GLIBC, reason="only glibc is told what to keep")
def test_what_a_step_frees_serves_the_next(check: Any) -> None:
    found = check("memory.taken")
    assert found["many"] < 2 * found["few"]


def test_layers_that_get_their_weights_late_give_the_same(check: Any) -> None:
    found = check("memory.lazy")
    if not found["known"]:
        pytest.skip("this version of the host has no such layers")
    assert found["empty"]
    assert found["difference"] == 0


def test_a_copy_with_weights_of_its_own_gives_the_same(check: Any) -> None:
    found = check("memory.copied")
    if not found["known"]:
        pytest.skip("this version of the host makes no such copies")
    assert found["apart"]
    assert found["difference"] == 0


def test_weights_that_the_host_lends_are_given_back(check: Any) -> None:
    found = check("memory.lent")
    if not found["lent"]:
        pytest.skip("this version of the host lends none")
    assert found["returned"] == found["lent"]


def test_an_area_beside_the_grid_is_continued_as_in_a_mirror(check: Any) -> None:
    found = check("pictures.frames")
    assert found["grid"] == [8, 24, 16, 16]
    assert found["frame"] == [0, 5, 5, 0]
    assert found["seen"] == [1, 2, 8, 24]
    assert found["inside"]
    assert found["said"]
    assert found["edge"]
    assert found["mirrored"] == [2, 1, 0, 1, 2, 1, 0, 1, 2]
    assert found["single"] == [0, 0, 0, 0]
    assert found["whole"]


def test_a_controlnet_is_refused_in_words(check: Any) -> None:
    words = "takes no ControlNet; remove it before the sampler"
    assert check("sampling.controlled") == {
        "HostedC": f"Stage C {words}",
        "HostedB": f"Stage B {words}",
    }


def test_pixels_outside_a_mask_are_the_originals_to_the_last_bit(check: Any) -> None:
    found = check("pictures.kept_pixels")
    assert found["outside"] == found["middle"] == found["hard inside"] == 0
    assert found["edge that is neither"] == found["edge"]


def test_a_file_may_be_written_anew_while_its_model_is_loaded(check: Any) -> None:
    assert check("memory.written_anew") == {"difference": 0}


def test_on_another_device_the_nodes_give_the_same(check: Any) -> None:
    found = check("memory.another_device")
    if not found["known"]:
        pytest.skip("this version of PyTorch knows no devices in Python")
    assert max(found["apart"].values()) < 1e-3
    assert found["ways"] == len(found["apart"])
    assert min(found["up"], found["down"]) > 0


def test_windows_of_stage_b_need_the_memory_of_a_window(check: Any) -> None:
    found = check("memory.room_for_windows")
    assert found["calls"] == 2
    assert found["windows"] == pytest.approx(found["whole"] / 4, rel=0.01)


def test_out_of_memory_stage_a_decodes_in_tiles_by_itself(check: Any) -> None:
    found = check("memory.out_of_memory")
    assert found["tiles"] > 1
    assert found["largest"] < 0.02


def test_the_package_samples_as_the_host_does(check: Any) -> None:
    found = check("sampling.samplers")
    assert len(found) == 7
    assert max(found.values()) < 1e-4


def test_weighted_and_long_prompts_are_read_as_the_host_reads_them(check: Any) -> None:
    found = check("pictures.weighting")
    assert len(found) == 10
    assert all(same and apart < 5e-6 for same, apart in found.values())


def test_a_step_takes_as_long_as_in_the_package(check: Any) -> None:
    """On a busy machine a measurement may miss by more; three do not."""
    found = [slowest_share(check("sampling.speed"))]
    while found[-1] >= 1.05 and len(found) < 3:
        found.append(slowest_share(check("sampling.speed")))
    assert found[-1] < 1.05, found


def slowest_share(seconds: dict[str, float]) -> float:
    """Return how many times as long as the package's step the slower of the host's takes."""
    return max(seconds["ours"], seconds["ksampler"]) / seconds["package"]


def test_after_a_run_nothing_is_kept_of_it(check: Any) -> None:
    assert check("memory.kept") == {"runs": [0, 0], "trained": 0, "packed": 0}


def test_behind_the_last_seed_comes_the_first(check: Any) -> None:
    assert check("sampling.last_seed")["apart"] < 1e-4


def test_a_latent_that_is_no_number_is_told_and_not_painted(check: Any) -> None:
    assert "the latent must be of finite numbers" in check("sampling.not_finite")["said"]


def test_each_picture_of_a_batch_has_its_own_mask_and_a_path_has_none(check: Any) -> None:
    assert check("pictures.masks") == {"apart": 0, "differ": True, "path": ["samples"]}

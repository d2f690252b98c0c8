"""Progress, previews and interrupts in a running ComfyUI."""

from typing import Any

import pytest

from .graphs import SAVE, STAGE_B, STAGE_C, put
from .server import Host

pytestmark = pytest.mark.host

LATE = 2  # steps that may pass while an interrupt travels


def test_every_step_of_both_stages_shows_a_picture(host: Host, graph: Any) -> None:
    put(graph, STAGE_C, seed=201)
    outcome = host.run(graph)
    assert outcome.steps == {STAGE_C: 29, STAGE_B: 12}
    assert outcome.previews == 29 + 12


@pytest.mark.parametrize(("node", "stopped_at"), [(STAGE_C, 50), (STAGE_B, 200)])
def test_an_interrupt_ends_the_run_at_once_and_the_next_one_works(
    host: Host, graph: Any, node: str, stopped_at: int
) -> None:
    put(graph, STAGE_C, times="uniform", steps=400 if node == STAGE_C else 4, seed=stopped_at)
    put(graph, STAGE_B, steps=400, seed=stopped_at)
    outcome = host.run(graph, interrupt_at=stopped_at)
    assert outcome.error["node_id"] == node
    assert "exception_message" not in outcome.error
    assert outcome.steps[node] <= stopped_at + LATE
    assert SAVE not in outcome.ran
    put(graph, STAGE_C, steps=2)
    put(graph, STAGE_B, steps=2)
    again = host.run(graph)
    assert again.message == ""
    assert again.steps[STAGE_B] == 2

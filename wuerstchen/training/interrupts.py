"""Interrupts that wait until a step is at its end."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stop_on_signal() -> Iterator[list[int]]:
    """Yield a list that is filled, instead of an exception, when the user or the system interrupts."""
    caught: list[int] = []
    kept = {
        number: signal.signal(number, lambda received, frame: caught.append(received))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield caught
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def leave_signals_to_the_trainer(worker: int) -> None:
    """Let a process that draws ignore Ctrl-C, which reaches all processes; the trainer stops it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

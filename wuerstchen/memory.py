"""How much memory this machine can still give."""

from pathlib import Path


def memory_left() -> float:
    """Return the bytes that this machine or container can still give, as Linux says; elsewhere 0."""
    machine = entries("/proc/meminfo").get("MemAvailable:", 0.0) * 1024
    group = "/sys/fs/cgroup/memory"
    most, used = (read_number(f"{group}.{name}") for name in ("max", "current"))
    if most is None or used is None:
        return machine
    kept = entries(f"{group}.stat")  # of files, which can go
    return min(machine, most - used + kept.get("active_file", 0) + kept.get("inactive_file", 0))


def entries(file: str) -> dict[str, float]:
    """Return the numbers in a file of lines that begin with a name; none if there is no such file."""
    path = Path(file)
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {words[0]: float(words[1]) for words in map(str.split, lines)}


def read_number(file: str) -> float | None:
    """Return the number that a file holds; None if there is no such file, or a word in it."""
    path = Path(file)
    text = path.read_text(encoding="utf-8").strip() if path.exists() else ""
    return float(text) if text.isdecimal() else None

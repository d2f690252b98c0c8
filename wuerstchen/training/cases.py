"""The settings that are compared, part by part, and what each costs.

stage_c     every sampler of Stage C with every number of steps, Stage B as it is by default
stage_b     every sampler of Stage B likewise, on the default's semantic latents
interval    guidance between two times only
presets     the default and the presets, on other prompts
"""

from dataclasses import asdict
from typing import Any

from ..sampling import chosen_times, is_within
from ..settings import PRESETS, SAMPLERS, Settings

STEPS_C, STEPS_B = (4, 6, 8, 10, 14, 20, 29), (2, 3, 4, 6, 8, 12)
TWINS = {"euler": "ddim", "euler_ancestral": "ddpm"}  # other names for the same
TRIED = tuple(name for name in SAMPLERS if name not in TWINS)
NOISY = ("ddpm", "dpmpp_2m_sde", "dpmpp_3m_sde")
# between the times of 10 steps
INTERVALS = ((1.0, 0.15), (1.0, 0.35), (1.0, 0.55), (0.85, 0.0), (0.85, 0.15), (0.65, 0.0))


def changes(s: Settings) -> dict[str, Any]:
    """Return the fields that differ from the default."""
    usual = asdict(Settings())
    return {name: value for name, value in asdict(s).items() if value != usual[name]}


def title(s: Settings) -> str:
    """Return the changes in one line."""
    return " ".join(f"{name}={value}" for name, value in changes(s).items()) or "default"


def calls(s: Settings) -> list[int]:
    """Return the rows through Stage C and through Stage B for one picture."""
    times = [float(t) for t in chosen_times(s.steps)[:-1]]
    times += times[1:] if s.sampler == "heun" else []
    interval = (s.guidance_start, s.guidance_end)
    led = [t for t in times if s.guidance > 1 and is_within(t, *interval)]
    twice = s.decoder_sampler == "heun"
    return [len(times) + len(led), 2 * s.decoder_steps - 1 if twice else s.decoder_steps]


def steps(sampler: str, evaluations: int) -> int:
    """Return the steps for at most so many evaluations; heun's take two each, but for its last."""
    return (evaluations + 1) // 2 if sampler == "heun" else evaluations


def cases_c() -> list[Settings]:
    """Return the default, then every sampler of Stage C with every number of steps."""
    grid = [Settings(sampler=name, steps=steps(name, n)) for name in TRIED for n in STEPS_C]
    return [Settings(), *grid]


def cases_b() -> list[Settings]:
    """Return every sampler of Stage B with every number of steps, the default among them."""
    grid = [(name, steps(name, n)) for name in TRIED for n in STEPS_B]
    return [Settings(decoder_sampler=name, decoder_steps=n) for name, n in dict.fromkeys(grid)]


PARTS: dict[str, list[Settings]] = {
    "stage_c": cases_c(),
    "stage_b": cases_b(),
    "interval": [
        Settings(sampler="dpmpp_2m", steps=10, guidance_start=start, guidance_end=end)
        for start, end in INTERVALS
    ],
    "presets": [Settings(), *(Settings(**fields) for fields in PRESETS.values())],
}

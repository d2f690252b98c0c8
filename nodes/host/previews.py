"""The colours of unfinished latents, for the host's live previews.

`previews.json` is written by `python -m wuerstchen.training previews`. A model that it does not
know is sampled without pictures.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

FITTED = Path(__file__).with_name("previews.json")


@cache
def fitted() -> dict[str, Any]:
    """Return factors and bias by stage and width of the text."""
    entries: dict[str, Any] = json.loads(FITTED.read_text(encoding="utf-8"))
    return entries


def colour(latent_format: Any, network: Any) -> None:
    """Give the host's latent format the colours of a network's latents, if they are known."""
    entry = fitted().get(f"{network.label} {network.text_width}")
    if entry:
        latent_format.latent_rgb_factors = entry["factors"]
        latent_format.latent_rgb_factors_bias = entry["bias"]

"""What asking for the nodes costs."""

import asyncio
import sys
import time
from typing import Any

from chain import PACK, nodes

OUTSIDE = ("transformers", "diffusers", "huggingface_hub", "tokenizers", "requests", "tqdm")


def importing() -> dict[str, Any]:
    """Return what asking for the nodes costs once the host is there."""
    import nodes as host_nodes

    begun = time.process_time()
    asyncio.run(host_nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False))
    before, started = set(sys.modules), time.process_time()
    count = len(nodes())
    ended = time.process_time()
    new = {name.partition(".")[0] for name in set(sys.modules) - before} - {PACK}
    return {
        "nodes": count,
        "seconds": ended - started,
        "seconds of the host's own": started - begun,
        "new": sorted(new & set(OUTSIDE)),
    }


def fingerprints() -> dict[str, Any]:
    """Return what nodes tell of the bundled file, of files that are not there, and of a link."""
    loader, prompts = (nodes()[f"WuerstchenLoad{name}"] for name in ("StageA", "Prompts"))
    chosen = {"bundled": "mini (bundled)", "absent": "nowhere.safetensors", "linked": None}
    told = {
        name: loader.fingerprint_inputs(stage_a=file, weight_dtype="fp32")
        for name, file in chosen.items()
    }
    return told | {"absent prompts": prompts.fingerprint_inputs(file="nowhere.txt")}


def missing_prompts() -> dict[str, Any]:
    """Return what the node says of a file of prompts that is not there."""
    try:
        nodes()["WuerstchenLoadPrompts"].execute(file="nowhere.txt")
    except FileNotFoundError as error:
        return {"said": str(error)}
    return {"said": None}

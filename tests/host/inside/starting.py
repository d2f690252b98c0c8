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

    asyncio.run(host_nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False))
    before, started = set(sys.modules), time.process_time()
    count = len(nodes())
    seconds = time.process_time() - started
    new = {name.partition(".")[0] for name in set(sys.modules) - before} - {PACK}
    return {"nodes": count, "seconds": seconds, "new": sorted(new & set(OUTSIDE))}


def fingerprints() -> dict[str, Any]:
    """Return what loaders tell of the bundled file, of one that is not there, and of a link."""
    tell = nodes()["WuerstchenLoadStageA"].fingerprint_inputs
    chosen = {"bundled": "mini (bundled)", "absent": "nowhere.safetensors", "linked": None}
    return {name: tell(stage_a=file, weight_dtype="fp32") for name, file in chosen.items()}

"""Würstchen v2 as nodes for ComfyUI: the door that the host opens.

Nothing is imported here: the host asks for the nodes when it wants them, and whatever else imports
this folder (a test runner, a packager) has no host.
"""

from pathlib import Path
from typing import Any

if (Path(__file__).parent / "nodes" / "web").is_dir():
    WEB_DIRECTORY = "nodes/web"


async def comfy_entrypoint() -> Any:
    """Return the extension with all nodes."""
    from .nodes import Wuerstchen

    return Wuerstchen()

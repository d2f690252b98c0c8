"""A custom node pack that tells what the host's memory manager holds: GET /probe."""

import comfy.model_management as management
from aiohttp import web
from server import PromptServer

NODE_CLASS_MAPPINGS: dict[str, type] = {}


@PromptServer.instance.routes.get("/probe")
async def probe(request: web.Request) -> web.Response:
    """Tell which models are loaded, by class of their networks."""
    loaded = [entry.model for entry in management.current_loaded_models]
    names = [type(patcher.model).__name__ for patcher in loaded if patcher is not None]
    return web.json_response({"loaded": sorted(names)})

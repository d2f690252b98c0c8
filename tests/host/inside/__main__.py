"""Checks that need to stand inside the host's own Python: `inside CHECKOUT ROOM.CHECK`.

Each check is a function of the rooms beside this file. One line of JSON is printed, which
`test_inside.py` reads.
"""

import importlib
import json
import sys


def main() -> None:
    """Run a check and print what it found."""
    checkout, check = sys.argv[1:]
    room, _, name = check.partition(".")
    sys.argv[1:] = ["--cpu"]
    checks = importlib.import_module(room)
    sys.path.insert(0, checkout)
    import comfy.options

    comfy.options.enable_args_parsing()
    print(json.dumps(getattr(checks, name)()))


if __name__ == "__main__":
    main()

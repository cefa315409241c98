"""Flower's SuperLink behind fedtune's gate: `python -m fedtune.federation.link.gated ARGUMENTS`.

The arguments are those of `flower-superlink`.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from types import ModuleType

from starlette.middleware import Middleware

from fedtune.deployment.gate import Gate
from fedtune.federation.link.bundle import make_bundle
from fedtune.federation.link.guard import PIN, write_wrappers

_HOOK = "flwr.ee.superlink.extensions"  # where Flower looks for middleware, outermost first


def main() -> None:
    """Start the SuperLink behind the gate."""
    put_gate_first()
    _run_own_apps_alone(Path(os.environ["FLWR_HOME"]) / "bin")
    from flwr.superlink.cli.flower_superlink import flower_superlink

    logging.getLogger("uvicorn.access").addFilter(_went_wrong)
    sys.argv[0] = "flower-superlink"
    flower_superlink()


def put_gate_first() -> None:
    """Have every SuperLink of this process stand behind the gate.

    Raises:
        RuntimeError: If this Flower takes no middleware from there: no gate, no SuperLink.
    """
    gate = Middleware(Gate)
    hook = ModuleType(_HOOK)
    vars(hook)["get_middleware"] = lambda: (gate,)
    sys.modules[_HOOK] = hook
    from flwr.superlink import extensions

    if gate not in extensions.get_middleware():
        raise RuntimeError("fedtune's gate needs flwr 1.41: this one lets nothing before its API")


def _run_own_apps_alone(commands: Path) -> None:
    """Have what Flower starts by name found here first: it runs fedtune's bundle and no other."""
    write_wrappers(commands)
    os.environ["PATH"] = os.pathsep.join([str(commands), os.environ.get("PATH", "")])
    os.environ.setdefault(PIN, make_bundle().hash_str)


def _went_wrong(record: logging.LogRecord) -> bool:
    """A line for each poll of each node would be 100 MB a day; keep those that were refused."""
    status = record.args[-1] if isinstance(record.args, tuple) and record.args else None
    return not isinstance(status, int) or status >= 400


if __name__ == "__main__":
    main()

"""Flower's SuperLink behind fedtune's gate: `python -m fedtune.federation.link.gated ARGUMENTS`.

The arguments are those of `flower-superlink`.
"""

from __future__ import annotations

import logging
import sys
from types import ModuleType

from starlette.middleware import Middleware

from fedtune.deployment.gate import Gate

_HOOK = "flwr.ee.superlink.extensions"  # where Flower looks for middleware, outermost first


def main() -> None:
    """Start the SuperLink, with nothing before the gate.

    Raises:
        RuntimeError: If this Flower takes no middleware from there: no gate, no SuperLink.
    """
    gate = Middleware(Gate)
    hook = ModuleType(_HOOK)
    vars(hook)["get_middleware"] = lambda: (gate,)
    sys.modules[_HOOK] = hook
    from flwr.superlink import extensions
    from flwr.superlink.cli.flower_superlink import flower_superlink

    if gate not in extensions.get_middleware():
        raise RuntimeError("fedtune's gate needs flwr 1.41: this one lets nothing before its API")
    logging.getLogger("uvicorn.access").addFilter(_went_wrong)
    sys.argv[0] = "flower-superlink"
    flower_superlink()


def _went_wrong(record: logging.LogRecord) -> bool:
    """A line for each poll of each node would be 100 MB a day; keep those that were refused."""
    status = record.args[-1] if isinstance(record.args, tuple) and record.args else None
    return not isinstance(status, int) or status >= 400


if __name__ == "__main__":
    main()

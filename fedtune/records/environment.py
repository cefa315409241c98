"""The versions and the machine that a run stands on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

PACKAGES = ("torch", "transformers", "peft", "trl", "datasets", "flwr", "flwr-datasets", "numpy")


def environment() -> dict[str, Any]:
    """Versions and hardware, as far as they can move a bit of the result."""
    versions = {"python": platform.python_version()}
    for package in ("fedtune", *PACKAGES):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed as a package"
    import torch  # seconds, which a look at a folder need not take

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    hardware = {
        "system": platform.platform(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "gpus": gpus,
    }
    return {"versions": versions, "hardware": hardware}

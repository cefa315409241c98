"""The app bundle that a run sends over Flower: a configuration and no code.

Both apps stand in the installed fedtune, so that what runs is what was installed, and the bundle's
hash, which a node's owner pins, is the same for every recipe.
"""

from __future__ import annotations

import hashlib
import warnings
from importlib.metadata import version

from flwr.cli.build import build_fab_from_files
from flwr.supercore.fab import Fab

SERVER_APP = "fedtune.federation.link.server_app:app"
CLIENT_APP = "fedtune.federation.link.node_app:app"
_PYPROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "fedtune-run"
version = "{version}"
description = "A fedtune run; both apps are those of the installed fedtune."
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "fedtune"

[tool.flwr.app.components]
serverapp = "{server}"
clientapp = "{client}"

[tool.flwr.app.config]
folder = ""
recipe = ""
overrides = ""
"""


def make_bundle() -> Fab:
    """The bundle of this version of fedtune; the same bytes each time."""
    text = _PYPROJECT.format(version=version("fedtune"), server=SERVER_APP, client=CLIENT_APP)
    files = {"pyproject.toml": text.encode(), "README.md": b"No code of its own.\n"}
    with warnings.catch_warnings():  # of what Flower asks of another package
        warnings.simplefilter("ignore", DeprecationWarning)
        content, _ = build_fab_from_files(files)
    return Fab(hashlib.sha256(content).hexdigest(), content, {})

"""The scripts, units and pages of a deployment folder, filled in from templates."""

from __future__ import annotations

import ipaddress
import re
from datetime import datetime
from functools import lru_cache
from importlib.resources import files
from typing import Any

import yaml

from fedtune.deployment.description import Description
from fedtune.deployment.node import FOLDER_KEY

TRIES = 12  # of a node in a row: three minutes; the SuperLink frees a killed node's key in one
# How often Flower's SuperExec asks for work. A node gets some each round; the SuperLink once a run,
# and at 20 questions a second over TLS it takes a fifth of a core when idle.
_POLL_S = {"server": "0.5", "node": "0.2"}
_BLANK = re.compile(r"@([A-Z_]+)@")
_IMAGE = "${FEDTUNE_IMAGE:-fedtune-node}"
_USER = "${FEDTUNE_USER:-1000:1000}"  # whose the folder is: its keys are closed to all others


def join_address(host: str, port: int) -> str:
    """Write host:port, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def server_files(description: Description) -> dict[str, str]:
    """The texts in ``server/``, by file name."""
    words = {
        "PORT": str(description.port),
        "BIND": _bind_address(description.host),
        "KEY": "server.key",
        "POLL_S": _POLL_S["server"],
    }
    return {
        "start.sh": _fill("superlink.sh", words),
        "register.sh": _fill("register.sh", words),
        "superlink.service": _fill("superlink.service", words),
    }


def node_files(description: Description, number: int) -> dict[str, str]:
    """The texts in one node's folder, by file name."""
    words = {
        "NAME": description.nodes[number].name,
        "ADDRESS": join_address(description.host, description.port),
        "KEY": "node.key",
        "POLL_S": _POLL_S["node"],
        "FOLDER_KEY": FOLDER_KEY,
        "TRIES": str(TRIES),
        "CLIENT": str(number),
    }
    return {
        "start.sh": _fill("supernode.sh", words),
        "supernode.service": _fill("supernode.service", words),
        "node.yaml": _fill("node.yaml", words),
        "README.md": _fill("node.md", words),
    }


def deployment_files(description: Description, expires: datetime) -> dict[str, str]:
    """The texts at the top of the folder, by file name."""
    count = len(description.nodes)
    words = {
        "ADDRESS": join_address(description.host, description.port),
        "PORT": str(description.port),
        "NODES": str(count),
        "COUNT": f"{count} node{'s' if count > 1 else ''}",
        "EXPIRES": f"{expires:%Y-%m-%d}",
    }
    return {
        "README.md": _fill("deployment.md", words),
        "compose.yaml": _compose(description),
        "deployment.json": description.model_dump_json(indent=2) + "\n",
    }


def image_files() -> dict[str, str]:
    """The texts in ``image/``, in which no key lies: it is what Docker is sent."""
    return {"Dockerfile": _read("Dockerfile")}


def _fill(template: str, words: dict[str, str]) -> str:
    text = _read(template)
    text = text.replace("@COMMON@\n", _read("common.sh") + "\n")
    return _BLANK.sub(lambda blank: words[blank.group(1)], text)


@lru_cache(maxsize=16)
def _read(template: str) -> str:
    return (files("fedtune.deployment") / "templates" / template).read_text(encoding="utf-8")


def _bind_address(host: str) -> str:
    """Loopback for a rehearsal; else all of the machine, for the name may be a router's."""
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        return "0.0.0.0"
    if address.is_loopback:
        return address.compressed
    return "0.0.0.0" if address.version == 4 else "::"


def _compose(description: Description) -> str:
    port = description.port
    common: dict[str, Any] = {
        "image": _IMAGE,
        "build": {"context": "./image"},
        "user": _USER,
        "init": True,
        "restart": "on-failure",
        "stop_grace_period": "30s",
        "security_opt": ["no-new-privileges:true"],
    }
    services: dict[str, Any] = {
        "superlink": {
            **common,
            "command": ["/deployment/server/start.sh"],
            "environment": {
                "FEDTUNE_BIND": "0.0.0.0",
                "XDG_CACHE_HOME": "/deployment/server/cache",
            },
            "ports": [f"{port}:{port}"],
            "volumes": [
                "./server:/deployment/server",
                "./deployment.json:/deployment/deployment.json:ro",
            ],
        }
    }
    for node in description.nodes:
        services[node.name] = {
            **common,
            "command": ["/node/start.sh"],
            "environment": {
                "FEDTUNE_SUPERLINK": f"superlink:{port}",
                "XDG_CACHE_HOME": "/node/cache",  # models of the hub lie in its huggingface/
            },
            "volumes": [f"./nodes/{node.name}:/node"],
        }
    head = (
        "# All of it in containers of one machine; image/Dockerfile says how to make it. Then:\n"
        "#   FEDTUNE_USER=$(id -u):$(id -g) docker compose up\n"
        "# Not started in fedtune's own tests, which read it: only its commands and mounts are.\n"
    )
    return head + yaml.safe_dump({"name": "fedtune", "services": services}, sort_keys=False)

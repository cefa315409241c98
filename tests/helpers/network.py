"""A deployment of three nodes on loopback, for tests that break parts of it."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
from ports import free_port

from fedtune.deployment.folder import DeploymentFolder
from fedtune.recipe import load_recipe
from fedtune.records.folder import RunFolder
from fedtune.runs.engines import execute

SMALL = (
    "federation.num_rounds=3",
    "federation.local_steps=2",
    "evaluation.samples=0",
    "evaluation.max_rows=16",
    "evaluation.per_client=false",
)


def new_deployment(path):
    return DeploymentFolder.create(path, 3, "127.0.0.1", free_port())


def begin(deployment, path, *keys):
    """A folder and recipe for a run over a deployment."""
    over = [*SMALL, f"federation.deployment={deployment.path}", f"output_dir={path}", *keys]
    return RunFolder.create(load_recipe("three_nodes", over))


def start(deployment, path, observer=print, *keys):
    folder, recipe = begin(deployment, path, *keys)
    execute(recipe, folder, observer)
    return folder


def locally(path, *keys):
    folder, recipe = RunFolder.create(
        load_recipe("three_nodes", [*SMALL, "federation.engine=local", f"output_dir={path}", *keys])
    )
    execute(recipe, folder)
    return folder


def workers(deployment):
    """The process of each node's worker, by its command line."""
    found = {}
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "fedtune.node.worker" in words:
            found[Path(words[-1])] = process.pid
    nodes = {folder.resolve(): folder.name for folder in deployment.node_folders}
    return {nodes[path.resolve()]: pid for path, pid in found.items() if path.resolve() in nodes}


def kill_tree(pid):
    """SIGKILL to a process and to all that it started, at once."""
    process = psutil.Process(pid)
    for each in [process, *process.children(recursive=True)]:
        try:
            each.kill()
        except psutil.NoSuchProcess:
            continue


def end_all(processes):
    """SIGKILL to each and to all that they started, the last first."""
    for process in reversed(processes):
        if process.poll() is None:
            kill_tree(process.pid)
        process.wait()


def descendants(pid, word):
    """Processes below one whose command line holds a word."""
    found = []
    for each in psutil.Process(pid).children(recursive=True):
        try:
            if any(word in part for part in each.cmdline()):
                found.append(each)
        except psutil.NoSuchProcess:
            continue
    return found


def run_script(script, log, **environment):
    """A start script of the deployment, as `fedtune deploy up` runs it."""
    with log.open("ab") as stream:
        return subprocess.Popen(
            [str(script)],
            env={**os.environ, "FEDTUNE_PYTHON": sys.executable, **environment},
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )

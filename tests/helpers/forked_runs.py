"""Runs in processes of their own: `python forked_runs.py` imports once and forks for each run.

A child may be killed from outside at a moment of chance, or kill itself at its k-th touch of the
run's folder, or of a folder within it: an opened file, a made or removed folder, a rename, a
truncation. The second kind lands inside the writing of checkpoints, records and adapter, where a
moment of chance seldom falls.
"""

import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path

TOUCHES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate"}


def watch(folder, kill_at):
    """Count the touches of a folder, and die at the one that was ordered."""
    touched = 0

    def hook(event, args):
        nonlocal touched
        if event in TOUCHES and any(str(arg).startswith(folder) for arg in args):
            touched += 1
            if touched == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    return lambda: touched


def carry_out(order, answer):
    from fedtune.records.folder import RunFolder, holds_stages
    from fedtune.runs.engines import execute
    from fedtune.runs.pipeline import PipelineFolder, execute_stages

    path = Path(order["folder"])
    touches = watch(str(path / order.get("within", "")) + os.sep, order.get("kill_at_touch"))
    try:
        if holds_stages(path):
            stages, pipeline = PipelineFolder.open(path)
            execute_stages(pipeline, stages)
        else:
            folder, recipe = RunFolder.open(path)
            execute(recipe, folder)
        said = {"touches": touches()}
    except BaseException:
        said = {"raised": traceback.format_exc()[-4000:]}
    os.write(answer, json.dumps(said).encode())


def fork(order):
    """What became of the child that carried out an order."""
    read_end, write_end = os.pipe()
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        try:
            carry_out(order, write_end)
        finally:
            os._exit(0)
    os.close(write_end)
    if order.get("kill_after_s") is not None:
        time.sleep(order["kill_after_s"])
        os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    took_s = time.monotonic() - started
    said = os.read(read_end, 8000)
    os.close(read_end)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    return {"killed": killed, "took_s": took_s, **json.loads(said or "{}")}


def main():
    from fedtune.runs import pipeline  # noqa: F401  once, for all children

    for line in sys.stdin:
        print(json.dumps(fork(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()

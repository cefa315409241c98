"""What the tests of the federation share: a tiny real run, and how to read what it left."""

import copy
import json
import subprocess
import sys

import forked_runs
import pytest
from staged_runs import rows_of_every_task, tiny_stages  # noqa: F401  fixtures

from fedtune.recipe import parse_recipe
from fedtune.records.folder import RunFolder
from fedtune.runs.loop import Run
from fedtune.simulation import client
from fedtune.transport.local import LocalTransport


@pytest.fixture
def tiny_recipe(tiny_model_folder, small_data, tmp_path):
    """Return a function: sections -> a recipe of 4 clients, 3 rounds, 2 steps; about 2 s a run.

    A section that is given is laid over the fixture's own, key by key.
    """

    def make(**sections):
        raw = {
            "model": {"name_or_path": str(tiny_model_folder("llama")), "device": "cpu"},
            "lora": {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"]},
            "data": {
                "source": str(small_data("jsonl")),
                "partition": {"by": "iid", "min_rows": 4},
            },
            "train": {
                "learning_rate": 1e-2,
                "per_device_train_batch_size": 4,
                "max_length": 32,
                "lr_scheduler_type": "constant",
                "gradient_checkpointing": False,
            },
            "federation": {"num_clients": 4, "num_rounds": 3, "local_steps": 2},
            "evaluation": {"samples": 0, "per_client": False, "max_rows": 8},
            "output_dir": str(tmp_path / "run"),
        }
        for name, section in sections.items():
            raw[name] = {**raw.get(name, {}), **section} if isinstance(section, dict) else section
        if raw.get("task") == "grpo":
            del raw["train"]["max_length"]  # prompts are as long as they are
        return parse_recipe(copy.deepcopy(raw))

    return make


@pytest.fixture
def run():
    """Return a function: run a recipe in a new folder, in this process, with any Client."""

    def start(recipe, *, app=client.app, transport=None):
        folder, recipe = RunFolder.create(recipe)
        return resume(recipe, folder, app=app, transport=transport)

    def resume(recipe, folder, *, app=client.app, transport=None):
        Run(recipe, folder).serve(transport or LocalTransport(app, recipe.federation.num_clients))
        return folder

    def folder_of(recipe, *, number):
        """The folder of the n-th run of a recipe, counted from 1, and the recipe in it."""
        path = recipe.output_dir
        return RunFolder.open(path if number == 1 else path.with_name(f"{path.name}-{number}"))

    start.resume, start.folder_of = resume, folder_of
    return start


@pytest.fixture(scope="session")
def forked():
    """Return a function: run what lies in a folder in a process of its own, killed or to its end.

    See forked_runs.py for what may be ordered, and what is answered.
    """
    helper = subprocess.Popen(
        [sys.executable, forked_runs.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )

    def carry_out(folder, **order):
        helper.stdin.write(json.dumps({"folder": str(folder.path), **order}) + "\n")
        helper.stdin.flush()
        return json.loads(helper.stdout.readline())

    yield carry_out
    helper.stdin.close()
    helper.wait(60)
    helper.stdout.close()


@pytest.fixture
def lying():
    """Return a function: the real Client, with ``alter`` run on some clients' train replies.

    ``alter(content)`` returns the content that is sent, or raises as a broken client does.
    """

    def make(alter, *, liars, kind="train"):
        def app(message, context):
            reply = client.app(message, context)
            is_liar = context.node_config["partition-id"] in liars
            if not is_liar or message.kind != kind:
                return reply
            return message.reply(alter(reply.content))

        return app

    return make

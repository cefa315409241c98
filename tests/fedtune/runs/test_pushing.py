"""The model card that a run leaves, and what `fedtune push` sends: to a hub that is none.

Not proven here: that the hub takes it; its own client library is what is called.
"""

import json

import pytest
import yaml
from typer.testing import CliRunner

from fedtune import api
from fedtune.cli import app
from fedtune.recipe import load_recipe
from fedtune.records.events import ignore
from fedtune.records.folder import RunFolder
from fedtune.runs.model_card import Owner, model_card
from fedtune.runs.pushing import push
from fedtune.trust.verifying import Witnesses, verified

OWNER = Owner(data="Sums of small numbers.\x1b[2J", base="someone/tiny", license="apache-2.0")


class FakeHub:
    """What a hub would be asked, and which files it was shown."""

    def __init__(self):
        self.made, self.files = [], {}

    def create_repo(self, repo_id, **options):
        self.made.append((repo_id, options))

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        from pathlib import Path

        self.files = {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}
        return f"https://hub.example/{repo_id}"


@pytest.fixture(scope="module")
def finished(tiny_model_folder, small_data, tmp_path_factory):
    """The folder of a run of one round with a simulated attacker."""
    recipe = api.load_recipe(
        "quickstart",
        model={"name_or_path": str(tiny_model_folder("llama"))},
        data={"source": str(small_data("jsonl")), "partition": {"by": "iid", "min_rows": 4}},
        federation={"num_clients": 4, "num_rounds": 1, "local_steps": 1},
        aggregator={"f": 1},
        attack={"num_attackers": 1},
        evaluation={"samples": 0, "per_client": False, "max_rows": 8},
        output_dir=str(tmp_path_factory.mktemp("push") / "run"),
    )
    folder, recipe = RunFolder.create(recipe)
    api.go_on(recipe, folder, ignore)
    return folder.path


def front_of(card):
    _, front, text = card.split("---\n", 2)
    return yaml.safe_load(front), text


def test_tokenizer_and_card_lie_beside_the_adapter_and_verify_holds(finished):
    from transformers import AutoTokenizer

    adapter = finished / "adapter"
    front, text = front_of((adapter / "README.md").read_text(encoding="utf-8"))
    assert front["library_name"] == "peft"
    assert "base_model" not in front, "a folder here is no name of the hub's"
    assert "1 of 4 clients were attackers (sign_flip)" in text
    assert "capped_spectral, f = 1" in text
    assert "| loss |" in text
    assert str(finished.parent) not in text, "no path of this machine"
    assert AutoTokenizer.from_pretrained(adapter)("add 3 4").input_ids
    findings = list(verified(finished, Witnesses()))
    assert not [finding.text for finding in findings if finding.wrong]
    assert any("beside the adapter, and in no record: README.md" in each.text for each in findings)


def test_a_card_says_what_was_and_what_was_not_simulated():
    honest = load_recipe("quickstart", ["attack=null", "defence.vote=true"])
    front, text = front_of(model_card(honest, []))
    assert "attack: none was simulated" in text
    assert "vote" in text
    assert "None were measured" in text
    hub = load_recipe("quickstart", ["model.name_or_path=Qwen/Qwen3-0.6B"])
    front, text = front_of(model_card(hub, [], Owner(data="Chats.")))
    assert front["base_model"] == "Qwen/Qwen3-0.6B"
    assert "Chats." in text
    scorer = load_recipe("reward_nano")
    assert "pipeline_tag" not in front_of(model_card(scorer, []))[0]
    assert "num_labels=1" in model_card(scorer, [])


def test_what_is_sent_names_the_base_and_no_path(finished):
    (finished / "adapter" / "notes.txt").write_text("not for the hub")
    hub = FakeHub()
    sent = push(finished, "me/lora", OWNER, hub=hub)
    (finished / "adapter" / "notes.txt").unlink()
    assert hub.made == [("me/lora", {"private": True, "exist_ok": True})]
    assert sent.url == "https://hub.example/me/lora"
    assert set(hub.files) == set(sent.files)
    assert {"adapter_model.safetensors", "adapter_config.json", "README.md"} <= set(hub.files)
    assert "notes.txt" not in hub.files
    assert "tokenizer.json" in hub.files
    config = json.loads(hub.files["adapter_config.json"])
    assert config["base_model_name_or_path"] == "someone/tiny"
    assert all(str(finished.parent).encode() not in content for content in hub.files.values())
    front, text = front_of(hub.files["README.md"].decode())
    assert (front["base_model"], front["license"]) == ("someone/tiny", "apache-2.0")
    assert "Sums of small numbers." in text
    assert "\x1b" not in text
    weights = (finished / "adapter" / "adapter_model.safetensors").read_bytes()
    assert hub.files["adapter_model.safetensors"] == weights
    public = FakeHub()
    push(finished, "me/lora", OWNER, public=True, hub=public)
    assert public.made[0][1]["private"] is False


def test_a_dry_run_asks_nobody(finished):
    hub = FakeHub()
    shown = push(finished, "me/lora", OWNER, dry_run=True, hub=hub)
    assert (hub.made, hub.files, shown.url) == ([], {}, None)
    words = ["push", str(finished), "me/lora", "--data", "Sums.", "--base", "a/b", "--dry-run"]
    told = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
    assert told.exit_code == 0, told.output
    assert "nothing was sent" in told.output
    assert "base_model: a/b" in told.output


@pytest.mark.parametrize(
    ("repo", "owner", "told"),
    [
        ("lora", OWNER, "needs OWNER/NAME"),
        ("me/lora", Owner(data="Sums."), "--base: needs the base model's name"),
        ("me/lora", Owner(base="a/b"), "--data: needs a sentence"),
    ],
)
def test_what_only_the_owner_knows_is_asked_for(finished, repo, owner, told):
    hub = FakeHub()
    with pytest.raises(ValueError, match=told):
        push(finished, repo, owner, hub=hub)
    assert hub.made == []


def test_a_run_that_is_not_finished_is_refused(finished, tmp_path):
    RunFolder.create(load_recipe("quickstart", [f"output_dir={tmp_path / 'begun'}"]))
    with pytest.raises(FileNotFoundError, match="holds no adapter"):
        push(tmp_path / "begun", "me/lora", OWNER, hub=FakeHub())

"""Put a run's adapter on the Hugging Face hub, by its owner's command alone."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from fedtune.recipe.data import EMBEDDED
from fedtune.records.folder import RunFolder
from fedtune.runs.adapter_of import CONFIG, WEIGHTS, find_adapter
from fedtune.runs.model_card import CARD, Owner, base_name, model_card

BASE = "base_model_name_or_path"
# Of a run's adapter folder; nothing else that may lie there leaves the machine.
_LEAVES = (WEIGHTS, CONFIG, "tokenizer*", "*.jinja", "special_tokens_map.json", "added_tokens.json",
           "vocab.*", "merges.txt", "*.model")  # fmt: skip


class Hub(Protocol):
    """What of `huggingface_hub.HfApi` is called."""

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> Any:  # noqa: ANN401
        """Make the repository, unless it is there."""

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> Any:  # noqa: ANN401
        """Put all of a folder there."""


@dataclass(frozen=True)
class Pushed:
    """What was sent, or would be.

    Attributes:
        repo: Its name on the hub.
        files: By name, in bytes.
        card: The model card.
        url: Where it is; None: nothing was sent.
    """

    repo: str
    files: dict[str, int]
    card: str
    url: str | None


def push(
    path: Path,
    repo: str,
    owner: Owner,
    *,
    public: bool = False,
    dry_run: bool = False,
    hub: Hub | None = None,
) -> Pushed:
    """Send adapter, tokenizer and model card of a finished run to the hub.

    Args:
        path: The run's folder.
        repo: OWNER/NAME.
        owner: What its owner says of it. A base in a folder needs its name on the hub.
        public: Whether a repository that is made for it can be read by everyone.
        dry_run: Send nothing, and ask no network.
        hub: Default: the hub, with the account of `hf auth login`.

    Raises:
        FileNotFoundError: If no finished run is there.
        ValueError: If the base's name, or a description of the data, is needed.
    """
    found = find_adapter(path.expanduser().absolute())
    if found.recipe is None:
        raise FileNotFoundError(f"{path} holds no run: it needs a recipe.yaml")
    if repo.count("/") != 1 or not all(repo.split("/")):
        raise ValueError(f"needs OWNER/NAME of the hub; got {repo!r}")
    name = owner.base or base_name(found.recipe)
    if name is None or "/" not in name:
        raise ValueError(
            f"--base: needs the base model's name on the hub, for others have no "
            f"{Path(found.recipe.model.name_or_path).name!r}; write --base OWNER/NAME"
        )
    if not owner.data and found.recipe.data.source not in EMBEDDED:
        raise ValueError("--data: needs a sentence on what the clients trained on, for the card")
    records = RunFolder(found.folder.parent).read_records()
    card = model_card(found.recipe, records, replace(owner, base=name))
    with _ready(found.folder, card, name) as folder:
        files = {each.name: each.stat().st_size for each in sorted(folder.iterdir())}
        if dry_run:
            return Pushed(repo, files, card, None)
        api = hub if hub is not None else _hub()
        api.create_repo(repo, private=not public, exist_ok=True)
        sent = api.upload_folder(
            repo_id=repo, folder_path=str(folder), commit_message="Adapter of a fedtune run"
        )
    return Pushed(repo, files, card, str(getattr(sent, "commit_url", sent)))


@contextmanager
def _ready(adapter: Path, card: str, base: str) -> Iterator[Path]:
    """A folder with what is sent: the base under its own name, where PEFT wrote a path of ours."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        for file in {each for pattern in _LEAVES for each in adapter.glob(pattern)}:
            if file.is_file() and not file.is_symlink():
                shutil.copyfile(file, folder / file.name)
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        text = json.dumps({**config, BASE: base}, indent=2)
        (folder / CONFIG).write_text(text + "\n", encoding="utf-8")
        (folder / CARD).write_text(card, encoding="utf-8")
        yield folder


def _hub() -> Hub:
    from huggingface_hub import HfApi

    api: Hub = HfApi()
    return api

"""`fedtune push`: a run's adapter to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from fedtune.cli.console import err, one_screen_errors, out


def push(
    path: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")],
    repo: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Where on the hub.")],
    data: Annotated[
        str | None, typer.Option(help="What the clients trained on, for the model card.")
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="The base model's name on the hub, if it is a folder here.")
    ] = None,
    license_: Annotated[
        str | None, typer.Option("--license", help="Of the adapter, such as apache-2.0.")
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="A new repository is private without it.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be sent; send nothing.")
    ] = False,
) -> None:
    """Send adapter, tokenizer and model card of a run to the Hugging Face hub.

    The card says what was trained, by which defence, whether attackers were simulated, and what was
    measured; you describe the data. It uses the account of hf auth login.

    fedtune push runs/chats me/chats-lora --data "Chats of four help desks" --dry-run
    """
    with one_screen_errors():
        from fedtune.runs.model_card import Owner
        from fedtune.runs.pushing import push as send

        owner = Owner(data, base, license_)
        sent = send(path, repo, owner, public=public, dry_run=dry_run)
        if dry_run:
            out.print(sent.card, markup=False, highlight=False, soft_wrap=True)
        for name, size in sent.files.items():
            err.print(f"  {escape(name)}  {size:,} bytes", highlight=False)
        told = f"would go to {sent.repo}; nothing was sent" if dry_run else f"sent: {sent.url}"
        err.print(escape(told), highlight=False, soft_wrap=True)

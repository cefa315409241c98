"""`fedtune deploy`: a federation over a real network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from fedtune.cli.console import err, one_screen_errors, out, short
from fedtune.stopping import stopped_by_sigterm

if TYPE_CHECKING:
    from fedtune.deployment.folder import DeploymentFolder

deploy_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="""A federation over a real network: a SuperLink, and nodes that dial it.

    [bold]fedtune deploy init fed --nodes 3[/bold] makes all that it needs.
    """,
)

Folder = Annotated[
    Path, typer.Argument(metavar="DIR", help="A folder that fedtune deploy init made.")
]
Days = Annotated[int, typer.Option(help="Days for which the SuperLink's certificate is valid.")]


@deploy_app.command()
def init(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A folder to create; it may exist if it is empty.")
    ],
    nodes: Annotated[int, typer.Option(help="How many nodes may join, each with its own key.")],
    host: Annotated[
        str, typer.Option(help="The address that the nodes dial: an IP address or a DNS name.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="The port that they dial there; no other has to be open.")
    ] = 9443,
    days: Days = 365,
) -> None:
    """Make certificates, node keys, scripts and a bundle for each node.

    fedtune deploy init fed --nodes 3

    fedtune deploy init fed --nodes 20 --host federation.example.org --port 443
    """
    with one_screen_errors():
        from fedtune.deployment.folder import DeploymentFolder

        made = DeploymentFolder.create(folder, nodes, host, port, days=days)
        _tell(made, short(made.path))


@deploy_app.command()
def renew(folder: Folder, days: Days = 365) -> None:
    """Renew the SuperLink's certificate with server/ca.key; the nodes need nothing new.

    fedtune deploy renew fed
    """
    with one_screen_errors():
        from fedtune.deployment.folder import DeploymentFolder

        made = DeploymentFolder.renew(folder, days=days)
        out.print(f"valid until {made.expires:%Y-%m-%d}; start the SuperLink again to show it")


@deploy_app.command()
def register(
    folder: Folder,
    patience: Annotated[float, typer.Option(help="Seconds that the SuperLink may take.")] = 60.0,
) -> None:
    """Register the keys of deployment.json and deregister all others; server/start.sh does it too.

    fedtune deploy register fed
    """
    with one_screen_errors():
        from fedtune.deployment.folder import DeploymentFolder
        from fedtune.transport.flower.admit import admit

        out.print(admit(DeploymentFolder.open(folder), patience_s=patience).told, soft_wrap=True)


@deploy_app.command()
def up(
    folder: Folder,
    patience: Annotated[float, typer.Option(help="Seconds until all nodes must be online.")] = 120,
) -> None:
    """Start SuperLink and nodes of a deployment on this machine, to try it; Ctrl-C ends it.

    fedtune deploy up fed

    Then, in another terminal: fedtune run three_nodes federation.deployment=fed
    """
    with one_screen_errors():
        from fedtune.deployment.folder import DeploymentFolder
        from fedtune.transport.flower.deployment_rehearsal import RehearsalError, rehearse, watch

        made = DeploymentFolder.open(folder)
        try:
            with stopped_by_sigterm(), rehearse(made, say=_say, patience_s=patience) as processes:
                _say(f"run: fedtune run RECIPE federation.deployment={short(made.path)}")
                watch(processes, made.path / "logs")
        except KeyboardInterrupt:
            _say("all of it ended")
        except RehearsalError as error:
            err.print(f"[red]error[/red] {escape(str(error))}", soft_wrap=True)
            raise typer.Exit(1) from None


def _say(line: str) -> None:
    err.print(escape(line), soft_wrap=True, highlight=False)


def _tell(made: DeploymentFolder, name: str) -> None:
    lines = [
        f"{name}: {len(made.names)} nodes, the SuperLink at {made.address}",
        f"  here:          {name}/server/start.sh",
        f"  on each node:  {name}/nodes/{made.names[0]}/start.sh, and so on",
        f"  read first:    {name}/README.md",
    ]
    for line in lines:
        out.print(escape(line), soft_wrap=True, highlight=False)

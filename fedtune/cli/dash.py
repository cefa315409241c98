"""`fedtune dash`: a read-only web page of a run."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from fedtune.cli.console import err, one_screen_errors, out
from fedtune.cli.status import RunDir, clean_errors, find_folder

PORT = 8642


def dash(
    path: RunDir = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free one.")] = PORT,
    host: Annotated[str, typer.Option(help="The address to serve on.")] = "127.0.0.1",
) -> None:
    """Serve a page that shows a run as it goes on. It is read-only; Ctrl-C ends it.

    fedtune dash runs/quickstart
    """
    with one_screen_errors():
        from fedtune.report.dash.page import Source
        from fedtune.report.dash.server import DashServer
        from fedtune.report.status_stages import watch_folder

        with clean_errors():
            folder = find_folder(path)
            watch_folder(folder)
            try:
                server = DashServer(Source(folder), host, port)
            except OSError as error:
                raise ValueError(
                    f"--host {host} --port {port} needs a free port on an address of this machine: "
                    f"got {error.strerror or error}; give others"
                ) from None
        with server:
            if not server.is_loopback:
                err.print(
                    "[yellow]note[/yellow] whoever reaches this address reads along: the page "
                    "asks for no password, and is not encrypted",
                    soft_wrap=True,
                )
            out.print(escape(server.url), soft_wrap=True, highlight=False)
            try:
                server.serve_forever(poll_interval=0.2)
            except KeyboardInterrupt:
                return

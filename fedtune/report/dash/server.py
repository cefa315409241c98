"""An HTTP server of two answers: the page, and its data. It reads, and takes nothing in."""

from __future__ import annotations

import ipaddress
import socket
import socketserver
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from fedtune.report.dash.page import POLICY, Source, dash_page, data_json

PAGE, DATA = "/", "/data.json"
MAX_AT_ONCE = 32
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}


class DashServer(ThreadingHTTPServer):
    """Serves one run on one address.

    Args:
        source: What is shown.
        host: A name or an address of this machine.
        port: 0 takes any that is free.

    Raises:
        OSError: If the address is not this machine's, or the port is taken.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, source: Source, host: str, port: int) -> None:
        self.source = source
        self._free = threading.BoundedSemaphore(MAX_AT_ONCE)
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family, _, _, _, address = found[0]
        super().__init__(address[:2], _Handler)  # type: ignore[arg-type]
        self.address = str(self.server_address[0])
        self.names = {host.lower(), _bare(self.address)}
        if self.is_loopback:
            self.names.add("localhost")

    def server_bind(self) -> None:
        """Bind, without asking a name server who this machine is."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        return ipaddress.ip_address(_bare(self.address)).is_loopback

    @property
    def url(self) -> str:
        """Where it is."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"http://{host}:{self.server_port}/"

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        """Answer in a thread of its own, unless too many wait already."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        """Make room once it is answered."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        """Who hangs up, or falls silent, is no error of ours."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: DashServer
    timeout = 10  # seconds in which a request must be there
    server_version, sys_version = "fedtune", ""

    def do_GET(self) -> None:
        if not self._is_meant():
            self._refuse(HTTPStatus.MISDIRECTED_REQUEST)
        elif self.path == PAGE:
            text = dash_page(self.server.source.view())
            self._send(HTTPStatus.OK, "text/html; charset=utf-8", text)
        elif self.path == DATA:
            text = data_json(self.server.source.view())
            self._send(HTTPStatus.OK, "application/json", text)
        else:
            self._refuse(HTTPStatus.NOT_FOUND)

    do_HEAD = do_GET  # noqa: N815

    def _is_meant(self) -> bool:
        """Whether the page was asked for by a name of this server's.

        A page of another site may point its own name at this address (DNS rebinding), and would
        then read what stands here. The port is not looked at: a tunnel has another one.
        """
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1:
            return False
        name = hosts[0].strip().lower()
        name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
        # Of an address that stands for all: the one through which this request came.
        return name in self.server.names | {_bare(self.connection.getsockname()[0])}

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse in a line, and quote nothing of the request."""
        other = code == HTTPStatus.NOT_IMPLEMENTED  # the library's word for an unknown method
        self._refuse(HTTPStatus.METHOD_NOT_ALLOWED if other else HTTPStatus(code))

    def _refuse(self, status: HTTPStatus) -> None:
        self._send(status, "text/plain; charset=utf-8", f"{status.value} {status.phrase}\n")

    def _send(self, status: HTTPStatus, kind: str, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: two lines a second tell nobody anything."""


def _bare(address: str) -> str:
    """An address without its zone, and an IPv4 one without what IPv6 puts before it."""
    return address.partition("%")[0].removeprefix("::ffff:").lower()

"""A node is told that its clock is too far from the SuperLink's: over TLS, by what that answers."""

import ssl
import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from fedtune.deployment.folder import DeploymentFolder
from fedtune.transport.flower.clock import complaint, seconds_ahead


@pytest.fixture
def superlink(tmp_path):
    """Answers with a date that is so many seconds before now; set it by `behind`."""
    folder = DeploymentFolder.create(tmp_path / "fed", 1, "127.0.0.1", 9443)

    class Answer(BaseHTTPRequestHandler):
        behind = 0.0

        def date_time_string(self, timestamp=None):
            then = datetime.now(UTC) - timedelta(seconds=self.behind)
            return format_datetime(then, usegmt=True)

        def do_GET(self):
            self.send_error(404)

        def log_message(self, *words):
            pass

    server = HTTPServer(("127.0.0.1", 0), Answer)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder.server_certificate, folder.server_key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    serving = threading.Thread(target=server.serve_forever, daemon=True)
    serving.start()
    yield Answer, f"127.0.0.1:{server.server_port}", folder.ca
    server.shutdown()
    serving.join()
    server.server_close()


@pytest.mark.parametrize(
    ("behind", "told"),
    [(0, None), (3, None), (-290, None), (60, "60 s ahead of"), (-3600, "3600 s behind")],
)
def test_a_clock_is_complained_of_where_flower_would_not_believe_it(superlink, behind, told):
    answer, address, ca = superlink
    answer.behind = behind
    said = complaint(address, ca)
    if told is None:
        assert said is None
    else:  # a date has whole seconds
        number, words = told.split(" ", 1)
        assert f" {words} the SuperLink's" in said
        assert abs(float(said.split("clock is ")[1].split()[0]) - float(number)) <= 2


def test_who_does_not_tell_the_time_is_not_complained_of(superlink, tmp_path):
    answer, address, _ = superlink
    other = DeploymentFolder.create(tmp_path / "other", 1, "127.0.0.1", 9443)
    assert seconds_ahead(address, other.ca) is None  # another authority's word for the time
    answer.date_time_string = lambda self, timestamp=None: "never"
    assert complaint(address, superlink[2]) is None
    assert seconds_ahead("127.0.0.1:1", superlink[2]) is None

"""The page's server over real HTTP: two answers, by its own names, to readers only.

What the page looks like is tested in tests/browser. Not proven here: many slow readers at once
from other machines; on loopback only.
"""

import base64
import hashlib
import json
import re
import shutil
import socket
import threading
from contextlib import contextmanager
from http.client import HTTPConnection

import pytest
from made_up_run import LAST, append, make_run

from fedtune.report.dash.page import Source
from fedtune.report.dash.server import MAX_AT_ONCE, DashServer


@contextmanager
def serving(path, host="127.0.0.1", **options):
    seconds = iter(range(10**6))  # each look is a second after the one before: none is remembered
    source = Source(path, options.pop("clock", lambda: float(next(seconds))))
    with DashServer(source, host, 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def folder(tmp_path):
    return make_run(tmp_path / "run")


@pytest.fixture
def server(folder):
    with serving(folder.path) as opened:
        yield opened


def ask(server, path="/", method="GET", **headers):
    connection = HTTPConnection(server.address, server.server_port, timeout=30)
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer, body


def data(server):
    answer, body = ask(server, "/data.json")
    assert answer.status == 200
    assert answer.getheader("Content-Type") == "application/json"
    return json.loads(body)


def test_the_data_are_the_runs(server, folder):
    view = data(server)
    assert view["state"] == "stopped"
    assert view["curve"] == [[0, 6.0], [1, 5.5], [2, 5.25]]
    assert dict(view["facts"])["Held-out loss"] == "6.000 to 5.250"
    append(folder, LAST)
    assert data(server)["curve"][-1] == [3, 4.125]


def test_the_page_carries_its_first_data_and_its_policy(server):
    answer, body = ask(server)
    assert answer.status == 200
    assert answer.getheader("Content-Type") == "text/html; charset=utf-8"
    (carried,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', body)
    assert json.loads(carried)["curve"] == [[0, 6.0], [1, 5.5], [2, 5.25]]
    policy = answer.getheader("Content-Security-Policy")
    parts = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert parts["default-src"] == "'none'"
    assert parts["connect-src"] == "'self'"
    assert parts["frame-ancestors"] == "'none'"
    for name, found in (("script", r"<script>(.*?)</script>"), ("style", r"<style>(.*?)</style>")):
        (text,) = re.findall(found, body, flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert parts[f"{name}-src"] == f"'sha256-{digest}'"
    assert not re.findall(r"(?:src|href)=", body)
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", body)  # a name, never fetched
    assert answer.getheader("X-Content-Type-Options") == "nosniff"
    assert answer.getheader("Cross-Origin-Resource-Policy") == "same-origin"
    assert answer.getheader("Cache-Control") == "no-store"


def test_hostile_words_cannot_leave_the_data_element(folder):
    record = {**LAST, "refused": {"3": "</script><script>alert(1)</script>"}}
    append(folder, record)
    with serving(folder.path) as server:
        body = ask(server)[1]
    assert "<script>alert" not in body
    assert body.count("</script>") == 2


def test_head_is_get_without_a_body(server):
    for path in ("/", "/data.json", "/gone"):
        head, body = ask(server, path, "HEAD")
        got, _ = ask(server, path)
        assert (head.status, body) == (got.status, "")
        assert head.getheader("Content-Type") == got.getheader("Content-Type")
    assert ask(server, "/data.json", "HEAD")[0].getheader("Content-Length").isdecimal()


@pytest.mark.parametrize(
    "path",
    [
        "/index.html", "/data.json?x=1", "/?", "/../recipe.yaml", "/recipe.yaml",
        "/%2e%2e/recipe.yaml", "/data.json/", "/favicon.ico", "/metrics.jsonl", "http://evil/", "*",
    ],
)  # fmt: skip
def test_there_is_nothing_else(server, path):
    answer, body = ask(server, path, Host="127.0.0.1")
    assert (answer.status, body) == (404, "404 Not Found\n")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "FROB"])
@pytest.mark.parametrize("path", ["/", "/data.json", "/gone"])
def test_nothing_can_be_written(server, method, path):
    answer, body = ask(server, path, method)
    assert (answer.status, body) == (405, "405 Method Not Allowed\n")
    assert answer.getheader("Allow") == "GET, HEAD"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200), ("127.0.0.1:8642", 200), ("localhost:9999", 200), ("LOCALHOST", 200),
        ("evil.example", 421), ("evil.example:8642", 421), ("127.0.0.1.evil.example", 421),
        ("localhost.evil.example", 421), ("", 421), ("[::1]", 421), ("0.0.0.0", 421),
        ("127.0.0.2", 421), ("evil.example\t127.0.0.1", 421),
    ],
)  # fmt: skip
def test_only_its_own_names_are_answered(server, host, status):
    for path in ("/", "/data.json"):
        answer, body = ask(server, path, Host=host)
        assert answer.status == status
        assert (status == 200) == ("6.0" in body)


def raw(server, request):
    with socket.create_connection((server.address, server.server_port), timeout=30) as link:
        link.sendall(request)
        link.shutdown(socket.SHUT_WR)
        parts = []
        while part := link.recv(65536):
            parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.0\r\n\r\n", 421),
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n", 421),
        (b"GET /\r\n\r\n", 421),  # HTTP/0.9: neither asked nor answered with headers
        (b"GET /\xc3\xa9 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 404),
        (b"GET / HTTP/9.9\r\nHost: 127.0.0.1\r\n\r\n", 505),
        (b"<script>\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n", 400),  # TLS
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nX: " + b"y" * 70_000 + b"\r\n\r\n", 431),
    ],
)
def test_a_broken_request_is_refused_in_a_line_and_not_quoted(server, request_, status):
    said = raw(server, request_)
    assert b"script" not in said.replace(b"script-src", b"")
    assert b"aaaa" not in said
    assert said.startswith((b"HTTP/1.0 %d " % status, b"%d " % status))
    assert data(server)["state"] == "stopped"


def test_what_follows_a_refused_request_is_no_request(server):
    inner = b"GET /data.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    head = b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n" % len(inner)
    said = raw(server, head + inner)
    assert said.count(b"HTTP/1.0 ") == 1
    assert b"6.0" not in said


def test_who_hangs_up_or_says_nothing_is_in_nobody_s_way(server, capsys):
    idle = [socket.create_connection((server.address, server.server_port)) for _ in range(8)]
    for link in idle[:4]:
        link.sendall(b"GET /data.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        link.close()
    assert data(server)["state"] == "stopped"
    for link in idle:
        link.close()
    assert capsys.readouterr().err == ""


def test_more_than_so_many_at_once_are_turned_away(server):
    links = [
        socket.create_connection((server.address, server.server_port), timeout=30)
        for _ in range(MAX_AT_ONCE + 4)
    ]
    turned_away = [link for link in links[-4:] if link.recv(1) == b""]
    assert len(turned_away) == 4
    for link in links:
        link.close()


def test_it_goes_on_when_the_folder_is_damaged_gone_and_back(server, folder):
    assert data(server)["state"] == "stopped"
    whole = folder.metrics.read_bytes()
    folder.metrics.write_bytes(whole + b"{broken}\n")
    told = data(server)
    assert told["state"] == "damaged"
    assert "line 4 needs JSON" in told["say"]
    folder.metrics.write_bytes(whole)
    assert data(server)["state"] == "stopped"
    moved = folder.path.with_name("moved")
    folder.path.rename(moved)
    assert data(server)["state"] == "gone"
    assert ask(server)[0].status == 200
    moved.rename(folder.path)
    assert data(server)["curve"][-1] == [2, 5.25]
    shutil.rmtree(folder.path)
    assert data(server)["state"] == "gone"


def test_it_is_seen_at_work_and_finished(server, folder):
    with folder.locked():
        assert data(server)["state"] == "running"
        append(folder, LAST)
        folder.adapter.mkdir()
        assert data(server)["state"] == "running"
    assert data(server)["state"] == "finished"


def test_many_readers_cost_one_look(folder):
    now = [0.0]
    with serving(folder.path, clock=lambda: now[0]) as server:
        before = data(server)
        append(folder, LAST)
        assert data(server) == before
        now[0] = 0.6
        assert data(server)["curve"][-1] == [3, 4.125]


def test_all_addresses_answer_to_the_one_that_was_asked(folder):
    with serving(folder.path, "0.0.0.0") as server:
        assert not server.is_loopback
        server.address = "127.0.0.1"
        assert ask(server)[0].status == 200
        assert ask(server, Host="evil.example")[0].status == 421
        assert ask(server, Host="10.0.0.1")[0].status == 421


def test_ipv6_loopback(folder):
    try:
        with serving(folder.path, "::1") as server:
            assert server.is_loopback
            assert server.url == f"http://[::1]:{server.server_port}/"
            assert ask(server)[0].status == 200
            assert ask(server, Host="[::1]:80")[0].status == 200
            assert ask(server, Host="[::2]:80")[0].status == 421
    except OSError:
        pytest.skip("this machine has no IPv6")

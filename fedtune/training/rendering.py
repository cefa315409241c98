"""Chat templates rendered in a process of their own, which is ended when one takes too much.

A template is a program. Jinja's sandbox keeps it from files and names, not from looping for ever or
from building texts of any size. On a node it came with a stranger's model.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import subprocess
import sys
import time
from typing import IO, Any

RENDER_S = 10.0  # one call, which is one conversation where rows are prepared
START_S = 60.0  # a process loads transformers' own renderer first
_GRACE_S = 5.0  # by then the process has ended itself
MAX_TEXT = 2**26  # bytes of an answer
# No token of the owner's is in the process in which a stranger's program runs.
_ENVIRONMENT = ("PATH", "PYTHONPATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH")
_CHILD = "fedtune.training.render_process"


class TemplateEndedError(ValueError):
    """A template took more time or memory than it may; what it said is not looked at."""


class Renderer:
    """Hands each rendering to a process; a new one is started after one was ended."""

    def __init__(self, render_s: float = RENDER_S) -> None:
        self._render_s = render_s
        self._process: subprocess.Popen[bytes] | None = None

    def render(self, **asked: Any) -> tuple[list[str], list[Any]]:  # noqa: ANN401
        """Transformers' `render_jinja_template`, whose arguments these are.

        Raises:
            TemplateEndedError: If it takes too long, or needs too much memory.
            jinja2.TemplateError: If the template says so.
            ValueError: If it fails otherwise.
        """
        process = self._started()
        try:
            _write(process, json.dumps(asked, default=str).encode())
            said = json.loads(_read(process, time.monotonic() + self._render_s + _GRACE_S))
        except (TimeoutError, ConnectionError) as error:
            self.end()
            raise TemplateEndedError(
                f"a chat template needs more than {self._render_s:g} s, or more memory than it may "
                "have"
            ) from error
        if "error" in said:
            raise _as_raised(said["error"], said["kind"])
        return said["texts"], said["spans"]

    def end(self) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
            self._process = None

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self.end()
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", _CHILD, str(self._render_s)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
            )
            _read(self._process, time.monotonic() + START_S)
        return self._process


def render_apart(render_s: float = RENDER_S) -> Renderer:
    """From now on let transformers' tokenizers render their templates in another process."""
    from transformers import tokenization_utils_base

    renderer = Renderer(render_s)

    def render(conversations: Any, **asked: Any) -> tuple[list[str], list[Any]]:  # noqa: ANN401
        return renderer.render(conversations=conversations, **asked)

    tokenization_utils_base.render_jinja_template = render
    atexit.register(renderer.end)
    return renderer


def _as_raised(text: str, kind: str) -> Exception:
    from jinja2 import TemplateError

    if kind == "MemoryError":
        return TemplateEndedError("a chat template needs more memory than it may have")
    return TemplateError(text) if kind == "TemplateError" else ValueError(f"{kind}: {text}")


def _write(process: subprocess.Popen[bytes], body: bytes) -> None:
    assert process.stdin is not None
    rest = memoryview(len(body).to_bytes(8, "little") + body)
    while rest:
        rest = rest[os.write(process.stdin.fileno(), rest) :]


def _read(process: subprocess.Popen[bytes], deadline: float) -> bytes:
    assert process.stdout is not None
    length = int.from_bytes(_exactly(process.stdout, 8, deadline), "little")
    if length > MAX_TEXT:
        raise ConnectionError(f"an answer of {length} bytes")
    return _exactly(process.stdout, length, deadline)


def _exactly(stream: IO[bytes], count: int, deadline: float) -> bytes:
    found, ready = bytearray(), select.poll()
    ready.register(stream.fileno(), select.POLLIN)
    while len(found) < count:
        left = deadline - time.monotonic()
        if left <= 0 or not ready.poll(1000 * left):
            raise TimeoutError
        part = os.read(stream.fileno(), min(count - len(found), 2**16))
        if not part:
            raise ConnectionError("the process ended")
        found += part
    return bytes(found)

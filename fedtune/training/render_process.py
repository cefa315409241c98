"""The process in which chat templates are rendered: `python -m fedtune.training.render_process`.

It loads neither torch nor a model, holds nothing but the rows it is asked about, and may take no
more than `MEMORY_BYTES`. The kernel ends it when a rendering takes too long: no loop of Python's or
of C's can put that off, and it need not be waited for where the one who asked is gone.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from typing import IO

from transformers.utils.chat_template_utils import render_jinja_template

MEMORY_BYTES = 2**30


def serve(asked: IO[bytes], said: IO[bytes], render_s: float) -> None:
    """Answer until there is nothing more to read: first an empty answer, that it is there."""
    _say(said, b"")
    while length := asked.read(8):
        body = asked.read(int.from_bytes(length, "little"))
        signal.setitimer(signal.ITIMER_REAL, render_s)
        answer = _rendered(body)
        signal.setitimer(signal.ITIMER_REAL, 0)
        _say(said, answer)


def _rendered(body: bytes) -> bytes:
    from jinja2 import TemplateError

    try:
        texts, spans = render_jinja_template(**json.loads(body))
        return json.dumps({"texts": texts, "spans": spans}).encode()
    except TemplateError as error:
        found = ("TemplateError", str(error))
    except MemoryError:
        found = ("MemoryError", "")
    except Exception as error:  # all else is the other side's to name
        found = (type(error).__name__, str(error))
    return json.dumps({"kind": found[0], "error": found[1][:1000]}).encode()


def _say(said: IO[bytes], body: bytes) -> None:
    said.write(len(body).to_bytes(8, "little") + body)
    said.flush()


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # it writes to its pipe alone
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    serve(sys.stdin.buffer, sys.stdout.buffer, float(sys.argv[1]))

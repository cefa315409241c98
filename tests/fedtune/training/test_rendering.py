"""A chat template is a program of a stranger's: it is rendered apart, and ended in time."""

import subprocess
import sys
import time

import pytest
from jinja2 import TemplateError

from fedtune.training.rendering import TemplateEndedError, render_apart

CHAT = [{"role": "user", "content": "é \U0001f600 <b>"}, {"role": "assistant", "content": "no"}]
PLAIN = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}"
GENERATION = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "{% endgeneration %}{% else %}{{ m.content | tojson }}{% endif %}{% endfor %}"
)


@pytest.fixture
def apart(monkeypatch):
    from transformers import tokenization_utils_base

    monkeypatch.setattr(  # put back when the test is over
        tokenization_utils_base,
        "render_jinja_template",
        tokenization_utils_base.render_jinja_template,
    )
    renderer = render_apart(1.0)
    yield renderer
    renderer.end()


def render(renderer, template, **more):
    return renderer.render(conversations=[CHAT], chat_template=template, eos_token="</s>", **more)


def test_a_tokenizer_gives_the_same_tokens_and_masks(tiny_model_folder, monkeypatch):
    from transformers import AutoTokenizer, tokenization_utils_base

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder("llama"))
    own = tokenization_utils_base.render_jinja_template
    renderer = render_apart()
    other = tokenization_utils_base.render_jinja_template
    for template in (tokenizer.chat_template, PLAIN, GENERATION):
        for more in ({}, {"add_generation_prompt": True, "enable_thinking": False}):
            found = []
            for one in (own, other):
                monkeypatch.setattr(tokenization_utils_base, "render_jinja_template", one)
                found.append(
                    tokenizer.apply_chat_template(
                        CHAT,
                        chat_template=template,
                        return_dict=True,
                        return_assistant_tokens_mask="generation %" in template,
                        **more,
                    )
                )
            assert dict(found[0]) == dict(found[1])
    monkeypatch.setattr(tokenization_utils_base, "render_jinja_template", own)
    renderer.end()


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 9**(9**9) }}",  # one operation in C, which no signal handler of Python's would end
        "{% set n = namespace(s='x') %}{% for i in range(99) %}{% set n.s = n.s ~ n.s %}"
        "{% endfor %}{{ n.s }}",
        "{{ 'x' * 10**10 }}",
    ],
)
def test_a_template_that_never_ends_is_ended(apart, template):
    render(apart, PLAIN)  # to start a process takes seconds of its own
    began = time.monotonic()
    with pytest.raises((TemplateEndedError, ValueError)):
        render(apart, template)
    assert time.monotonic() - began < 10
    assert render(apart, PLAIN)[0] == ["[user]é \U0001f600 <b></s>[assistant]no</s>"]


def test_a_template_may_refuse_as_before(apart):
    with pytest.raises(TemplateError, match="no system"):  # trl looks for this class
        render(apart, "{{ raise_exception('no system') }}")
    with pytest.raises(TemplateError, match="undefined"):
        render(apart, "{{ nothing.at.all }}")


def test_a_process_whose_asker_is_killed_ends_by_itself():
    code = (
        "import os, threading\n"
        "from fedtune.training.rendering import Renderer\n"
        "r = Renderer(2.0)\n"
        "r.render(conversations=[], chat_template='')\n"
        "print(r._process.pid, flush=True)\n"
        "r.render(conversations=[[]], chat_template='{{ 9**(9**9) }}')\n"
    )
    asker = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    pid = int(asker.stdout.readline())
    time.sleep(0.5)
    asker.kill()
    asker.communicate()
    deadline = time.monotonic() + 10
    while _runs(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _runs(pid)


def _runs(pid):
    try:
        with open(f"/proc/{pid}/stat") as stream:
            return stream.read().split()[2] != "Z"
    except FileNotFoundError:
        return False

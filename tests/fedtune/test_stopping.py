"""SIGTERM does in a block what SIGINT would do there, and the exit status tells them apart."""

import os
import signal

import pytest

from fedtune.stopping import status_when_stopped, stopped_by_sigterm


@pytest.fixture(autouse=True)
def as_it_was():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("interrupt", [signal.default_int_handler, signal.SIG_IGN])
def test_sigterm_interrupts_even_where_a_shell_ignores_sigint(interrupt):
    signal.signal(signal.SIGINT, interrupt)
    with pytest.raises(KeyboardInterrupt), stopped_by_sigterm():
        os.kill(os.getpid(), signal.SIGTERM)
    assert status_when_stopped() == 143


def test_sigterm_goes_to_who_has_taken_sigint():
    taken = []
    with stopped_by_sigterm():
        signal.signal(signal.SIGINT, lambda number, frame: taken.append(number))
        os.kill(os.getpid(), signal.SIGTERM)
    assert taken == [signal.SIGINT]


def test_a_later_ctrl_c_is_not_taken_for_a_sigterm():
    with pytest.raises(KeyboardInterrupt), stopped_by_sigterm():
        os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), stopped_by_sigterm():
        os.kill(os.getpid(), signal.SIGINT)
    assert status_when_stopped() == 130
    assert signal.getsignal(signal.SIGTERM) != signal.SIG_IGN

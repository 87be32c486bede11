"""Signals become a request to stop, and only as long as somebody reads it."""

import os
import signal
import time

import pytest

from psld.training import stop as module
from psld.training.stop import STOP_SIGNALS, stop_on


def test_a_signal_is_remembered_and_the_handlers_come_back():
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    for number in STOP_SIGNALS:
        with stop_on(*STOP_SIGNALS) as stop:
            assert stop.number == 0
            os.kill(os.getpid(), number)
            assert stop.number == number
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before


def test_an_echo_of_a_signal_is_no_second_request(monkeypatch):
    """Slurm ends a job with two SIGTERM; the first one's checkpoint must have its time."""
    monkeypatch.setattr(module, "ECHO_SECONDS", 600)
    with stop_on(signal.SIGTERM) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.number == signal.SIGTERM


def test_a_second_signal_acts_as_it_did_before(monkeypatch):
    monkeypatch.setattr(module, "ECHO_SECONDS", 0.01)
    with stop_on(signal.SIGINT) as stop:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.02)
        assert stop.number == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)

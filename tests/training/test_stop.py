"""Signals as a request to stop, only while a training listens."""

import os
import signal

import pytest

from psld.training.loop import STOP_SIGNALS, StopRequest


def test_a_signal_is_remembered_and_the_handlers_come_back():
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    with StopRequest() as stop:
        assert stop.number == 0
    for number in STOP_SIGNALS[1:]:
        with StopRequest() as stop:
            os.kill(os.getpid(), number)
            assert stop.number == number
        signal.signal(signal.SIGTERM, before[0])
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before


def test_slurm_may_ask_again():
    """It ends a job with two SIGTERM; the first one's checkpoint, and its line, need their time."""
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGTERM):
            os.kill(os.getpid(), number)
            assert stop.number == number
    os.kill(os.getpid(), signal.SIGTERM)
    signal.signal(signal.SIGTERM, before)


def test_a_second_ctrl_c_acts_as_it_did_before():
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.number == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)

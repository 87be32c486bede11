"""Signals become a request to stop, and only as long as somebody reads it."""

import os
import signal

from psld.training.stop import STOP_SIGNALS, stop_on


def test_a_signal_is_remembered_and_the_handlers_come_back():
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    for number in STOP_SIGNALS:
        with stop_on(*STOP_SIGNALS) as stop:
            assert stop.number == 0
            os.kill(os.getpid(), number)
            assert stop.number == number
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before

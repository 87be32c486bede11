"""Kills and requests to stop, at each moment when a file is written but not yet renamed."""

import signal
from pathlib import Path

import pytest

from tests.commands import Finished
from tests.faults.checks import begin_again, check_again, check_nothing_lost
from tests.faults.children import Moment, start, without_partials
from tests.faults.stages import Stage

pytestmark = pytest.mark.slow

MOST = 30
"""An upper bound for the number of files that a command renames."""


@pytest.mark.parametrize("numbers", [[signal.SIGKILL], [signal.SIGTERM, signal.SIGINT]])
def test_interrupted_everywhere(numbers: list[int], project: Path, finished: Path, stage: Stage):
    """Send a signal at the first moment, run the command again, send the next signal at the second
    moment, and so on."""
    before = begin_again(project, stage)
    for position in range(MOST):
        number = numbers[position % len(numbers)]
        ended = start(stage, project, moment=Moment(number, position)).ended()
        if ended.returncode == 0:
            break
        check_end(ended, number)
        with without_partials(project) as partials:
            assert number == signal.SIGKILL or not partials
            check_nothing_lost(project, stage, before, finished)
    assert 0 < position < MOST - 1
    # A training logs the step at which it was asked to stop.
    changed = "" if signal.SIGKILL in numbers else "history.json"
    check_again(project, stage, before, finished, changed)


def check_end(ended: Finished, number: int) -> None:
    """Check the end of a command; a training first writes a checkpoint and prints its step."""
    if number == signal.SIGKILL:
        assert (ended.returncode, ended.stderr) == (-number, "")
        return
    assert ended.returncode == 128 + number, ended.stderr
    expected = {signal.SIGTERM: "", signal.SIGINT: "error: interrupted\n"}[number]
    if ended.stderr != expected:
        assert ended.stderr.startswith(f"error: stopped by {signal.Signals(number).name}; step ")
        assert ended.stderr.count("\n") == 1

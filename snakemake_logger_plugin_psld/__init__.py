"""Snakemake's logger `psld`: every half minute a line with the time left and the oldest job's log.

Snakemake's own progress counts jobs, and in a grid a training takes as long as fifty other jobs.
Here jobs count by their time. Every Snakemake of this environment may import this module, so
importing it changes nothing.
"""

import logging
import os
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from snakemake.common import NOTHING_TO_BE_DONE_MSG
from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

LINE_SECONDS = 30
SECONDS = {"train": 52, "train_guide": 12, "sample": 4}
"""Of the demo's jobs on an idle core. The jobs so far show how much longer they take here: on a
busy machine, or in another grid."""
OTHER_SECONDS = 1


class Running(NamedTuple):
    rule: str
    log: str
    since: float


class LogHandler(LogHandlerBase):
    """Prints these lines, warnings and errors, and nothing else that Snakemake says."""

    writes_to_stream = True
    writes_to_file = False
    has_filter = True
    has_formatter = False
    needs_rulegraph = False

    def __post_init__(self) -> None:
        self.waiting: Counter[str] = Counter()
        """The jobs of each rule that have not ended."""
        self.running: dict[int, Running] = {}
        self.taken = self.expected = 0.0
        """The seconds of the jobs that have ended, and how many they would take in the demo."""
        self.ended = threading.Event()
        self.lines = threading.Thread(target=self._print_lines, daemon=True)

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING or record.msg == NOTHING_TO_BE_DONE_MSG:
            print(self.format(record), file=sys.stderr, flush=True)
        match getattr(record, "event", None):
            case LogEvent.RUN_INFO if not self.waiting:  # a dry run says it twice
                self.waiting.update({r: n for r, n in record.stats.items() if r != "total"})
                self.lines.start()
            case LogEvent.JOB_INFO:
                log = next(iter(record.log), "")
                self.running[record.jobid] = Running(record.rule_name, log, time.monotonic())
            case LogEvent.JOB_FINISHED if job := self.running.pop(record.job_id, None):
                self.waiting[job.rule] -= 1
                self.taken += time.monotonic() - job.since
                self.expected += seconds_of(job.rule)
            case LogEvent.JOB_ERROR:
                self.running.pop(record.jobid, None)

    def close(self) -> None:
        self.ended.set()
        super().close()

    def _print_lines(self) -> None:
        while not self.ended.wait(LINE_SECONDS):
            print(self.line(), file=sys.stderr, flush=True)

    def line(self) -> str:
        """Return how long all jobs will take, and the last line of the log of the oldest one."""
        now, running = time.monotonic(), list(self.running.values())
        late = [job for job in running if now - job.since > seconds_of(job.rule)]
        taken = self.taken + sum(now - job.since for job in late)
        expected = self.expected + sum(seconds_of(job.rule) for job in late)
        slower = taken / expected if expected else 1.0
        left = sum(n * slower * seconds_of(rule) for rule, n in list(self.waiting.items()))
        left -= sum(min(now - job.since, slower * seconds_of(job.rule)) for job in running)
        minutes = max(1, round(left / len(os.sched_getaffinity(0)) / 60))
        jobs = sum(self.waiting.values())
        line = f"about {minutes} min left, {jobs} job{'s' * (jobs != 1)}"
        if logs := [job.log for job in sorted(running, key=lambda job: job.since) if job.log]:
            path, written = Path(logs[0]), []
            with suppress(OSError):  # It may not be there yet, or not be readable.
                written = path.read_text(errors="replace").splitlines()
            line += f"; {path}{': ' if written else ''}{written[-1][:120] if written else ''}"
        return line


def seconds_of(rule: str) -> int:
    return SECONDS.get(rule, OTHER_SECONDS)

"""The Snakemake logger `psld`, which prints the jobs and the time left every half minute.

    18 jobs; the log of each is in logs/
    training 1 of 1: step 598 of 2500, about 5 minutes left; then 13 other jobs
    9 of 18 jobs left, about 2 minutes or more; the oldest: logs/evaluate/mine/denoiser/few-4.log
    done: results/mine.html

The time left for a training comes from its log. The time of a waiting job is estimated as the mean
time of the finished jobs of its rule in this run. Rules without finished jobs are not counted,
hence "or more". Every Snakemake run in this environment may import this module, so the import has
no side effects.
"""

import logging
import re
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from snakemake.common import NOTHING_TO_BE_DONE_MSG
from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

from psld.utils.progress import about

LINE_SECONDS = 30
SILENT_SECONDS = 60
"""The time from the start of a run, in seconds, during which no estimate is shown."""
FRESH_SECONDS = 120
"""The age in seconds at which the last line of a training's log is outdated. No time left is shown
for an outdated log, because the training may be waiting in a queue."""
TRAININGS = ("train", "train_guide")
STEP = re.compile(r"training: (step \d+ of \d+), .*?([\d:]+) left")
"""The pattern of a progress line (`psld.utils.progress`) in the log of a training."""


class Job(NamedTuple):
    rule: str
    log: str
    file: str
    """The first output file; for a target without outputs, the first input file."""
    is_target: bool
    since: float


class LogHandler(LogHandlerBase):
    """Prints progress lines, warnings and errors, and no other messages of Snakemake."""

    writes_to_file = False
    has_filter = True
    has_formatter = False
    needs_rulegraph = False

    @property
    def writes_to_stream(self) -> bool:
        """False in a dry run, because Snakemake prints the output of a dry run itself."""
        return not self.common_settings.dryrun

    def __post_init__(self) -> None:
        self.planned: Counter[str] = Counter()
        """The number of jobs of each rule."""
        self.left: Counter[str] = Counter()
        """The number of unfinished jobs of each rule."""
        self.running: dict[int, Job] = {}
        self.at_once = 1
        """The largest number of jobs that have run at the same time."""
        self.seconds: dict[str, list[float]] = {}
        """The durations of the finished jobs of each rule, in seconds."""
        self.named_targets = False
        self.began = time.monotonic()
        self.ended = threading.Event()
        self.lines = threading.Thread(target=self._print_lines, daemon=True)

    def emit(self, record: logging.LogRecord) -> None:
        if not self.writes_to_stream:
            return
        if record.levelno >= logging.WARNING or record.msg == NOTHING_TO_BE_DONE_MSG:
            say(self.format(record))
        match getattr(record, "event", None):
            case LogEvent.RUN_INFO:
                self.planned.update({r: n for r, n in record.stats.items() if r != "total"})
                self.left.update(self.planned)
                say(f"{jobs(self.left.total())}; the log of each is in logs/")
                self.lines.start()
            case LogEvent.JOB_INFO:
                is_target = not record.output
                file = next(iter(record.output or record.input), "")
                log = next(iter(record.log), "")
                job = Job(record.rule_name, log, file, is_target, time.monotonic())
                self.running[record.jobid] = job
                self.at_once = max(self.at_once, len(self.running))
            case LogEvent.JOB_FINISHED if job := self.running.pop(record.job_id, None):
                self.left[job.rule] -= 1
                self.seconds.setdefault(job.rule, []).append(time.monotonic() - job.since)
                self.named_targets |= job.is_target
                if job.is_target or not (self.named_targets or self.left.total()):
                    say(f"done: {job.file}")
            case LogEvent.JOB_ERROR:
                self.running.pop(record.jobid, None)

    def close(self) -> None:
        self.ended.set()
        super().close()

    def _print_lines(self) -> None:
        while not self.ended.wait(LINE_SECONDS):
            say(self.line())

    def line(self) -> str:
        """Describe the training with the most time left, and the waiting jobs.

        If no training is running, describe all jobs.
        """
        running = list(self.running.values())
        logs = [job.log for job in running if job.rule in TRAININGS]
        waiting = self.left - Counter(job.rule for job in running if job.rule in TRAININGS)
        time_left = self._time_of(waiting)
        if not logs:
            line = f"{waiting.total()} of {jobs(self.planned.total())} left{time_left}"
            oldest = min(running, key=lambda job: job.since, default=None)
            return f"{line}; the oldest: {oldest.log}" if oldest and oldest.log else line
        planned, later = (sum(each[rule] for rule in TRAININGS) for each in (self.planned, waiting))
        line = f"training {planned - later} of {planned}"
        if steps := [each for each in map(step_of, logs) if each]:
            seconds, step = max(steps)
            line += f": {step}"
            if seconds and not self._is_young():
                line += f", {about(seconds)} left"
        then = [jobs(later, "training")] if later else []
        if others := waiting.total() - later:
            then.append(jobs(others, "other job"))
        return f"{line}; then {' and '.join(then)}{time_left}" if then else line

    def _is_young(self) -> bool:
        return time.monotonic() - self.began < SILENT_SECONDS

    def _time_of(self, waiting: Counter[str]) -> str:
        """Format the estimated time of waiting jobs; empty if the time is unknown or short."""
        known = waiting.keys() & self.seconds.keys()
        seconds = sum(waiting[rule] * fmean(self.seconds[rule]) for rule in known) / self.at_once
        is_shown = seconds >= LINE_SECONDS and not self._is_young()
        return f", {about(seconds)} or more" if is_shown else ""


def step_of(log: str) -> tuple[float, str] | None:
    """Return the seconds left (0 if unknown) and the step from the log of a training."""
    with suppress(OSError):  # The log may be missing or unreadable.
        path = Path(log)
        if found := STEP.findall(path.read_text(errors="replace")):
            step, clock = found[-1]
            if time.time() - path.stat().st_mtime > FRESH_SECONDS:
                return 0, step
            parts = reversed(clock.split(":"))
            return sum(int(part) * 60**place for place, part in enumerate(parts)), step
    return None


def jobs(number: int, noun: str = "job") -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)

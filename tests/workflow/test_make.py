"""`make demo` with a small Snakefile: its progress, on a terminal and elsewhere; its last words."""

import logging
import os
import pty
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from snakemake_interface_logger_plugins.common import LogEvent

import snakemake_logger_plugin_psld as plugin
from tests.workflow.project import REPOSITORY

SNAKEFILE = """
import snakemake_logger_plugin_psld

snakemake_logger_plugin_psld.LINE_SECONDS = 0.2

rule demo:
    input: "results/demo.html"

rule train:
    output: "models/one"
    log: "logs/train/demo/one.log"
    shell: "echo step 7 of 9 > {log}; sleep 1; test ! -e broken; touch {output}"

rule page:
    input: "models/one"
    output: "results/demo.html"
    shell: "touch {output}"
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    for name in ("Makefile", "profiles"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    command = tmp_path / ".venv/bin/psld"
    command.parent.mkdir(parents=True)
    command.write_text('#!/bin/sh\necho "psld $*"\n')
    command.chmod(0o755)
    return tmp_path


def make_demo(folder: Path, stdout: int, stderr: int) -> subprocess.Popen:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    # `make test` would be taken for the parent of this make, which then names its folder.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    environment = {**kept, "PATH": path, "PYTHONPATH": str(REPOSITORY), "TERM": "xterm"}
    command = [shutil.which("make"), "demo", "INSTALLED="]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=stdout, stderr=stderr)


def on_a_terminal(folder: Path) -> str:
    """Everything that the terminal shows."""
    terminal, end = pty.openpty()
    running = make_demo(folder, end, end)
    os.close(end)
    shown = b""
    with suppress(OSError):  # the end of a terminal
        while part := os.read(terminal, 4096):
            shown += part
    os.close(terminal)
    assert running.wait() == 0, shown.decode()
    return shown.decode()


def in_a_file(folder: Path, code: int = 0) -> str:
    running = make_demo(folder, subprocess.PIPE, subprocess.STDOUT)
    printed = running.communicate()[0].decode()
    assert running.returncode == code, printed
    return printed


def test_a_file_gets_lines_with_the_time_left_and_a_terminal_gets_bars(folder):
    """The first say how long it takes and where to watch, the last what came out."""
    (folder / "broken").touch()
    failed = in_a_file(folder, code=2)
    first, *_ = failed.splitlines()
    assert first.startswith("About 10 minutes on 2 cores, half of it 5 trainings; watch: tail")
    assert "about 1 min left, 3 jobs; logs/train/demo/one.log: step 7 of 9\n" in failed
    assert "Total Progress" not in failed
    assert "Select jobs to execute" not in failed
    assert "Error in rule train" in failed
    assert "Logfile logs/train/demo/one.log:" in failed
    assert "psld page" not in failed

    (folder / "broken").unlink()
    shown = on_a_terminal(folder)
    assert "Total Progress" in shown
    assert "━" in shown
    *_, last, where = shown.splitlines()
    assert last.endswith("psld page grid_name=demo")
    assert where.startswith("Tables: make results")

    again = in_a_file(folder)
    assert "Nothing to be done" in again
    assert "About 10 minutes" not in again


def test_jobs_count_by_their_time(monkeypatch):
    """A training takes as long as 52 evaluations; the jobs that have ended show how fast."""
    monkeypatch.setattr(plugin.os, "sched_getaffinity", lambda process: {0, 1})
    now = 0.0
    monkeypatch.setattr(plugin.time, "monotonic", lambda: now)
    logger = plugin.LogHandler(None, None)

    def say(event: LogEvent, **fields: object) -> None:
        logger.emit(
            logging.makeLogRecord({"event": event, "levelno": logging.INFO, "msg": "", **fields})
        )

    def run(job: int, rule: str, seconds: float) -> None:
        nonlocal now
        say(LogEvent.JOB_INFO, jobid=job, rule_name=rule, log=[])
        now += seconds
        say(LogEvent.JOB_FINISHED, job_id=job)

    say(LogEvent.RUN_INFO, stats={"train": 5, "evaluate": 40, "total": 45})
    assert logger.line() == "about 2 min left, 45 jobs"  # (5 × 52 + 40) / 2 cores
    for job in range(40):
        run(job, "evaluate", 1)
    assert logger.line() == "about 2 min left, 5 jobs", "nearly all of the time is left"
    run(40, "train", 10 * 52)
    assert logger.line() == "about 11 min left, 4 jobs"
    say(LogEvent.JOB_INFO, jobid=41, rule_name="train", log=["logs/none.log"])
    now += 300
    assert logger.line() == "about 8 min left, 4 jobs; logs/none.log"
    logger.close()

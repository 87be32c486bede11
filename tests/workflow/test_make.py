"""`make demo` with a small Snakefile: progress on a terminal and in a file, and the last lines."""

import logging
import os
import pty
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

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
    params: "training: step 7 of 9, 0.1 steps/s, 00:20 left"
    shell: "echo {params} > {log}; sleep 1; test ! -e broken; touch {output}"

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
    # Without this, a surrounding `make test` makes this make print its folder.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    environment = {**kept, "PATH": path, "PYTHONPATH": str(REPOSITORY), "TERM": "xterm"}
    command = [shutil.which("make"), "demo", "INSTALLED="]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=stdout, stderr=stderr)


def on_a_terminal(folder: Path) -> str:
    """Run `make demo` on a terminal, and return its output."""
    terminal, end = pty.openpty()
    running = make_demo(folder, end, end)
    os.close(end)
    shown = b""
    with suppress(OSError):  # raised at the end of the terminal's output
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


def test_file_gets_lines_and_terminal_gets_progress_bars(folder):
    """The first lines have the estimated time and the log to watch, the last line the output."""
    (folder / "broken").touch()
    failed = in_a_file(folder, code=2)
    first, *_ = failed.splitlines()
    assert first.startswith("About 10 minutes on 2 cores, half of it 5 trainings; watch: tail")
    assert "3 jobs; the log of each is in logs/\n" in failed
    assert "training 1 of 1: step 7 of 9; then 2 other jobs\n" in failed
    assert "Total Progress" not in failed
    assert "Select jobs to execute" not in failed
    assert "Error in rule train" in failed
    assert "Logfile logs/train/demo/one.log:" in failed
    assert "done" not in failed
    assert "psld page" not in failed

    (folder / "broken").unlink()
    shown = on_a_terminal(folder)
    assert "Total Progress" in shown
    assert "━" in shown
    *_, last, where = shown.splitlines()
    assert last.endswith("psld page grid_name=demo")
    assert where.startswith("Tables: make results")

    (folder / "results/demo.html").unlink()
    *_, made, _, _ = in_a_file(folder).splitlines()
    assert made == "done: results/demo.html"

    again = in_a_file(folder)
    assert "Nothing to be done" in again
    assert "About 10 minutes" not in again


class Run:
    """Sends events of Snakemake to the logger, at times that the test sets."""

    def __init__(self, monkeypatch, capsys):
        self.now, self.capsys = 0.0, capsys
        monkeypatch.setattr(plugin.time, "monotonic", lambda: self.now)
        self.logger = plugin.LogHandler(SimpleNamespace(dryrun=False), None)

    def say(self, event: LogEvent, **fields: object) -> None:
        self.logger.emit(
            logging.makeLogRecord({"event": event, "levelno": logging.INFO, "msg": "", **fields})
        )

    def plan(self, **stats: int) -> None:
        self.say(LogEvent.RUN_INFO, stats={**stats, "total": sum(stats.values())})

    def start(self, job: int, rule: str, log: str = "", **files: list[str]) -> None:
        files = {"input": [], "output": ["a", "b"], "log": [log] if log else [], **files}
        self.say(LogEvent.JOB_INFO, jobid=job, rule_name=rule, **files)

    def end(self, job: int, seconds: float = 0) -> None:
        self.now += seconds
        self.say(LogEvent.JOB_FINISHED, job_id=job)

    def line_at(self, seconds: float) -> str:
        self.now = seconds
        return self.logger.line()

    def printed(self) -> list[str]:
        return self.capsys.readouterr().err.splitlines()


@pytest.fixture
def run(monkeypatch, capsys):
    run = Run(monkeypatch, capsys)
    yield run
    run.logger.close()


def progress(path: Path, text: str) -> str:
    path.write_text(f"training models/mine for 2500 steps\n{text}\nstep 500/2500: loss 1\n")
    return str(path)


def test_time_left_is_read_from_the_training_log(run, tmp_path):
    log = progress(tmp_path / "log", "training: step 598 of 2500, 6.1 steps/s, 05:13 left, loss 1")
    run.plan(prepare=1, train=1, sample=6, evaluate=6, mine=1)
    run.start(0, "prepare")
    assert run.line_at(20) == "15 of 15 jobs left"
    run.end(0)
    run.start(1, "train", log)
    young = "training 1 of 1: step 598 of 2500; then 13 other jobs"
    assert run.line_at(59) == young, "no time in the first minute"
    told = "training 1 of 1: step 598 of 2500, about 5 minutes left; then 13 other jobs"
    assert run.line_at(60) == run.line_at(9999) == told, "an overdue job keeps its time"
    os.utime(log, (0, 0))
    assert run.line_at(9999) == young, "with an old log, the job may wait in a queue"
    progress(tmp_path / "log", "training: step 9 of 2500, 0.01 steps/s, 1:02:03 left")
    assert "step 9 of 2500, about 62 minutes left" in run.line_at(9999)
    (tmp_path / "log").unlink()
    assert run.line_at(9999) == "training 1 of 1; then 13 other jobs"


def test_time_of_waiting_jobs_is_estimated_from_finished_jobs(run, tmp_path):
    short = progress(tmp_path / "short", "training: step 90 of 99, 1 steps/s, 00:09 left")
    long = progress(tmp_path / "long", "training: step 9 of 99, 1 steps/s, 01:30 left")
    run.plan(train=4, train_guide=1, sample=4, demo=1)
    run.start(0, "train")
    run.end(0, 120)
    run.start(1, "train", long)
    run.start(2, "train", short)
    # A training takes 120 s, and two trainings run at once.
    assert run.line_at(150) == (
        "training 3 of 5: step 9 of 99, about 2 minutes left; "
        "then 2 trainings and 5 other jobs, about 60 seconds or more"
    )
    for job, rule in (1, "train"), (2, "train"), (3, "train"), (4, "train_guide"):
        run.start(job, rule)
        run.end(job, 1)
    run.start(5, "sample", "logs/5")
    run.end(5, 60)
    run.start(6, "sample", "logs/6")
    left = "4 of 10 jobs left, about 2 minutes or more; the oldest: logs/6"
    assert run.line_at(1000) == left, "an overdue job keeps its time"


@pytest.mark.parametrize("made", ["results/mine.html", "results/cells/mine/denoiser/few-4.json"])
def test_last_line_names_the_output_of_a_target(run, made):
    run.plan(evaluate=1, target=1)
    run.start(1, "evaluate", output=[made])
    run.end(1)
    run.start(0, "target", input=[made, "another"], output=[])
    run.end(0)
    assert run.printed() == ["2 jobs; the log of each is in logs/", f"done: {made}"]


def test_last_line_names_a_file_target_when_it_exists(run):
    run.plan(prepare=1, start=1)
    for job, rule in enumerate(("prepare", "start")):
        run.start(job, rule, output=[f"{rule}.file", "another"])
        run.say(LogEvent.JOB_ERROR, jobid=job)  # The job is retried.
        run.start(job, rule, output=[f"{rule}.file", "another"])
        run.end(job)
    assert run.printed()[1:] == ["done: start.file"]


def test_dry_run_shows_the_plan_of_snakemake(folder):
    command = [sys.executable, "-m", "snakemake", "--profile", "profiles/default", "--dry-run"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.stdout.count("Job stats:") == 2
    assert "done" not in done.stderr

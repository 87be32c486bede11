"""A launcher checks settings before the submission, and waits without importing torch."""

import fcntl
import itertools
import os
import pickle
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from psld.cluster.job import run_rank
from psld.cluster.slurm import retry_until_reachable
from tests.cluster.commands import Commands
from tests.cluster.runs import until
from tests.commands import TINY, call, command, refused, started
from tests.conftest import handlers_kept

TRAINING = ("--", "train", *TINY, "training.steps=3", "output=model")
"""The end of a command line, without `data=`."""

MEMORY_MB = 100
"""The largest allowed memory of a launcher, because fifty launchers may wait on a login node."""


@pytest.fixture
def unwilling(slurm, resolved, tmp_path) -> Commands:
    """A cluster that refuses every job."""
    (tmp_path / ".cache").symlink_to(resolved / ".cache")
    complaint = "sbatch: error: invalid partition specified: x\n"
    slurm.answer("sbatch", stderr=complaint, exit_code=1)
    slurm.answer("squeue")
    return slurm


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("train", "model=demo/cld"), ["usage: psld launch KEY=VALUE … -- COMMAND"]),
        (("--", "sample"), ["sample cannot be launched; put train or train_guide after --"]),
        ((*TRAINING, "training.steps=0"), ["psld train: training.steps"]),
        (("--", "train", "model=demo/cld", "record=x"), ["grid has changed", "not x"]),
        (("--", "train_guide", "network.widht=3"), ["train_guide", "widht"]),
    ],
    ids=lambda value: " ".join(value[-1:]) if isinstance(value, tuple) else "",
)
def test_wrong_settings_are_refused_before_a_submission(unwilling, tmp_path, given, words):
    refused(call(tmp_path, "launch", *given), 2, *words)
    assert unwilling.calls("sbatch") == unwilling.calls("squeue") == []
    assert not (tmp_path / "runs").exists()


def test_the_dataset_must_exist_with_its_digest(unwilling, tmp_path, digits):
    launch = ("launch", *TRAINING, "data=digits.h5")
    no_file = "digits.h5: no such file"
    refused(call(tmp_path, *launch), 2, f"{no_file}; make it with psld prepare")
    shutil.copy(digits.with_name("digits.digest"), tmp_path)
    refused(call(tmp_path, *launch), 2, f"{no_file}; make it with psld prepare")
    (tmp_path / "digits.digest").unlink()
    shutil.copy(digits, tmp_path)
    refused(call(tmp_path, *launch), 2, "digits.json: no such file", "psld prepare")
    shutil.copy(digits.with_name("digits.json"), tmp_path)
    refused(
        call(tmp_path, *launch), 2, f"{no_file}, or no .digest file next to it; run psld prepare"
    )
    # The workflow names the model, and the grid of the model defines the dataset.
    of_grid = ("--", "train", "model=demo/cld", "data=digits.h5")
    refused(call(tmp_path, "launch", *of_grid), 2, f"{no_file}, or no .digest file")
    assert unwilling.calls("sbatch") == []


def test_where_slurm_is_refused_without_sbatch(commands, tmp_path, digits):
    launch = ("launch", "where=slurm", *TRAINING, f"data={digits}")
    refused(call(tmp_path, *launch), 2, "where=slurm", "sbatch is not installed", "where=here")


@pytest.mark.parametrize(("where", "option"), [("here", "nodes=2"), ("auto", "detach=true")])
def test_this_machine_is_one_node_and_runs_no_job(commands, tmp_path, digits, where, option):
    launch = ("launch", option, f"where={where}", *TRAINING, f"data={digits}")
    refused(call(tmp_path, *launch), 2, f"{option} needs Slurm")


# --- a launcher waits in a separate process ------------------------------------------------------


def test_a_waiting_launcher_uses_little_memory(slurm, tmp_path, digits):
    launch = command("launch", *TRAINING, f"data={digits}")
    with started(tmp_path, launch) as process:
        printed = "".join(itertools.takewhile(lambda line: "pending" not in line, process.stdout))
        assert "submitted job 42: 1 node(s) with 1 rank(s) each" in printed, process.stderr.read()
        status = Path(f"/proc/{process.pid}/status").read_text()
        [peak_kb] = re.findall(r"VmHWM:\s+(\d+) kB", status)
        assert int(peak_kb) / 1000 < MEMORY_MB
        assert "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text()


def test_ctrl_c_before_the_answer_of_sbatch_cancels_the_job(slurm, tmp_path, digits):
    """The job is canceled only after sbatch has answered."""
    answered = slurm.folder / "answered"
    slurm.answer("sbatch", "Submitted batch job 42\n", first=f"/bin/sleep 1; echo yes > {answered}")
    slurm.answer("scancel", first=f"[ -e {answered} ] || exit 1")
    with started(tmp_path, command("launch", *TRAINING, f"data={digits}")) as process:
        until(lambda: slurm.calls("sbatch"))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (128 + signal.SIGINT, "")
    assert "canceled the job" in out
    assert len(slurm.calls("scancel")) == 1
    assert list(tmp_path.glob("runs/launches/*/launch.json")) == []


# --- a launcher waits in this process, which gets a signal ---------------------------------------


@pytest.fixture
def launched(slurm, tmp_path, digits, monkeypatch) -> Callable[..., str]:
    """Launch a training, send these signals to the waiting launcher, and return its output."""

    def run(*words: str, numbers: tuple[int, ...] = (signal.SIGHUP,)) -> str:
        send = partial(os.kill, os.getpid())
        clock = SimpleNamespace(sleep=lambda _: [*map(send, numbers)], monotonic=time.monotonic)
        monkeypatch.setattr("psld.cluster.launcher.time", clock)
        options = [word for word in words if word.startswith("detach")]
        training = (f"data={digits}", *(word for word in words if word not in options))
        with handlers_kept():
            ended = call(tmp_path, "launch", *options, *TRAINING, *training)
        assert ended.returncode == 128 + numbers[-1], ended.stderr
        return ended.stdout

    return run


@pytest.mark.parametrize(
    ("number", "detach", "cancels"),
    [
        (signal.SIGINT, "false", True),
        (signal.SIGTERM, "false", True),
        (signal.SIGHUP, "false", False),
        (signal.SIGINT, "true", False),
    ],
)
def test_a_signal_cancels_the_job_unless_it_is_detached(
    slurm, launched, tmp_path, number, detach, cancels
):
    printed = launched(f"detach={detach}", numbers=(number,))
    assert ("canceled the job" if cancels else "the job continues") in printed
    name = next((tmp_path / "runs" / "launches").iterdir()).name
    assert slurm.calls("scancel") == ([f"--me --name={name}"] if cancels else [])


def test_a_launcher_under_nohup_continues_when_the_terminal_is_closed(launched):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert "SIGHUP" not in launched(numbers=(signal.SIGHUP, signal.SIGTERM))


def test_a_restarted_launcher_finds_its_job_or_replaces_it_after_a_change(slurm, launched):
    assert "submitted job 42" in launched()
    assert "waiting for job 42 of an earlier launcher" in launched()
    assert len(slurm.calls("sbatch")) == 1
    slurm.answer("scancel", first=f"/bin/rm {slurm.folder}/sbatch.calls")
    printed = launched("training.steps=4")
    assert "canceling job 42 of an earlier launch, and waiting for its end" in printed
    assert "submitted job 42" in printed
    assert len(slurm.calls("scancel")) == 1


def test_a_job_gets_its_command_although_sbatch_did_not_answer(
    slurm, launched, tmp_path, monkeypatch
):
    """The submission has reached the controller, so the queue contains the job when the launcher
    asks again."""
    monkeypatch.setattr(retry_until_reachable, "__defaults__", (Mock(side_effect=[None]),))
    slurm.answer("sbatch", stderr="sbatch: error: Socket timed out\n", exit_code=1)
    assert "Socket timed out; retrying until Slurm answers" in launched()
    assert len(slurm.calls("sbatch")) == 1
    [pickled] = tmp_path.glob("runs/launches/*/42_submitted.pkl")
    submitted = pickle.loads(pickled.read_bytes())
    [words] = submitted.args
    assert (submitted.function, words[0]) == (run_rank, "train")


def test_a_second_output_of_a_run_waits_for_the_first(slurm, launched, tmp_path, monkeypatch):
    """Otherwise the second job would occupy GPUs until the first job has ended."""
    launched("output=a")
    [lock] = tmp_path.glob("runs/*/launcher.lock")
    interrupt = partial(signal.pthread_kill, threading.main_thread().ident, signal.SIGINT)

    def say(*text: str, **options: bool) -> None:
        print(*text, **options)
        threading.Timer(0.2, interrupt).start()

    monkeypatch.setattr("psld.utils.locks.print", say, raising=False)
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        printed = launched("output=b", numbers=(signal.SIGINT,))
    assert "waiting for another launcher" in printed
    assert "the other launcher continues" in printed
    assert len(slurm.calls("sbatch")) == 1
    assert slurm.calls("scancel") == []

"""A launcher's checks before submission, and its waiting, without torch."""

import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.cluster.commands import Commands
from tests.commands import TINY, call, command, refused, started

TRAINING = ("--", "train", *TINY, "training.steps=3", "output=model")
"""What stands at the end of a command line; `data=` is missing."""

MEMORY_MB = 100
"""What a launcher may hold: fifty of them wait on a login node."""


@pytest.fixture
def unwilling(slurm, signals, resolved, tmp_path) -> Commands:
    """A cluster that refuses every job."""
    (tmp_path / ".cache").symlink_to(resolved / ".cache")
    complaint = "sbatch: error: invalid partition specified: x\n"
    slurm.answer("sbatch", stderr=complaint, exit_code=1)
    slurm.answer("squeue")
    return slurm


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((), ["usage: psld launch KEY=VALUE … -- COMMAND …"]),
        (("train", "model=demo/cld"), ["unknown key model"]),
        (("--", "sample"), ["train or train_guide, not sample", "done=FILE runs=FOLDER"]),
        (("done=x", "--", "train"), ["psld launch: done", "done=FILE runs=FOLDER"]),
        (("runs=x", "--", "train"), ["psld launch: done", "done=FILE runs=FOLDER"]),
        (("done=x", "runs=y", "--", "pyhton", "mine.py"), ["launch: pyhton: no such program"]),
        (("done=x", "runs=y", "--", "./fit.sh"), ["launch: ./fit.sh: not executable; chmod +x"]),
        ((*TRAINING, "training.steps=0"), ["psld train: training.steps"]),
        ((*TRAINING, "network.channel_multipliers=[1,1,1,1,1]"), ["cannot be halved 4 times"]),
        (("--", "train", "model=demo/cdl"), ["no such model", "cld"]),
        (("--", "train", "model=demo/cld", "record=x"), ["grid has changed", "not x"]),
        (("--", "train_guide", "network.widht=3"), ["train_guide", "widht"]),
    ],
    ids=lambda value: " ".join(value[-1:]) if isinstance(value, tuple) else "",
)
def test_refused_before_anything_is_submitted(unwilling, tmp_path, given, words):
    (tmp_path / "fit.sh").touch()
    refused(call(tmp_path, "launch", *given), 2, *words)
    assert unwilling.calls("sbatch") == unwilling.calls("squeue") == []
    assert not (tmp_path / "runs").exists()


def test_the_data_must_be_there_with_its_digest(unwilling, tmp_path, digits):
    launch = ("launch", *TRAINING, "data=digits.h5")
    no_file = "digits.h5: no such file"
    refused(call(tmp_path, *launch), 2, f"{no_file}; make it with psld prepare")
    shutil.copy(digits.with_name("digits.digest"), tmp_path)
    refused(call(tmp_path, *launch), 2, f"{no_file}; make it with psld prepare")
    (tmp_path / "digits.digest").unlink()
    shutil.copy(digits, tmp_path)
    refused(call(tmp_path, *launch), 2, "digits.json: no such file", "psld prepare")
    shutil.copy(digits.with_name("digits.json"), tmp_path)
    refused(call(tmp_path, *launch), 2, f"{no_file} with its .digest; make it with psld prepare")
    # The workflow names the model, whose grid says what the dataset is.
    of_grid = ("--", "train", "model=demo/cld", "data=digits.h5")
    refused(call(tmp_path, "launch", *of_grid), 2, f"{no_file} with its .digest")
    assert unwilling.calls("sbatch") == []


def test_slurm_where_there_is_none(commands, tmp_path, digits):
    launch = ("launch", "where=slurm", *TRAINING, f"data={digits}")
    refused(call(tmp_path, *launch), 2, "where=slurm", "no sbatch here", "where=here")
    commands.answer("sbatch")
    commands.answer("scontrol", stderr="Could not establish a configuration source\n", exit_code=1)
    refused(call(tmp_path, *launch), 2, "no cluster that it can reach")
    assert commands.calls("sbatch") == []


@pytest.mark.parametrize("where", ["here", "auto"])
@pytest.mark.parametrize("option", ["nodes=2", "detach=true"])
def test_this_machine_is_one_node_and_runs_no_job(commands, tmp_path, digits, where, option):
    launch = ("launch", option, f"where={where}", *TRAINING, f"data={digits}")
    refused(call(tmp_path, *launch), 2, f"{option} needs Slurm")


def waits(process: subprocess.Popen[str]) -> str:
    """What a launcher has printed when it waits for its job."""
    printed = ""
    while "is pending" not in printed:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        printed += line
    return printed


def test_a_launcher_that_waits_is_light(slurm, tmp_path, digits):
    launch = command("launch", *TRAINING, f"data={digits}")
    with started(tmp_path, launch) as process:
        assert "submitted job 42: 1 node(s) with 1 rank(s) each" in waits(process)
        status = Path(f"/proc/{process.pid}/status").read_text()
        [peak_kb] = re.findall(r"VmHWM:\s+(\d+) kB", status)
        assert int(peak_kb) / 1000 < MEMORY_MB
        assert "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text()


@pytest.mark.parametrize(
    ("number", "detach", "cancels"),
    [
        (signal.SIGINT, "false", True),
        (signal.SIGTERM, "false", True),
        (signal.SIGHUP, "false", False),
        (signal.SIGINT, "true", False),
    ],
)
def test_a_signal_cancels_the_job_or_leaves_it(slurm, tmp_path, digits, number, detach, cancels):
    launch = command("launch", f"detach={detach}", *TRAINING, f"data={digits}")
    with started(tmp_path, launch) as process:
        waits(process)
        process.send_signal(number)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    assert err == ""
    assert ("canceled the job" if cancels else "the job goes on") in out
    name = next((tmp_path / "runs" / "launches").iterdir()).name
    assert slurm.calls("scancel") == ([f"--me --name={name}"] if cancels else [])


def test_a_launcher_under_nohup_stays_when_the_terminal_is_closed(slurm, tmp_path, digits):
    nohup = ["/bin/sh", "-c", "trap '' HUP; exec \"$@\"", "nohup"]
    launch = command("launch", *TRAINING, f"data={digits}")
    with started(tmp_path, nohup + launch) as process:
        waits(process)
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM
    assert "SIGHUP" not in out


def test_one_that_is_started_again_comes_back_and_with_other_settings_submits_another(
    slurm, tmp_path, digits
):
    launch = command("launch", *TRAINING, f"data={digits}")
    for said in ("submitted job 42", "back to job 42"):
        with started(tmp_path, launch) as process:
            assert said in waits(process)
            process.kill()
    assert len(slurm.calls("sbatch")) == 1
    slurm.answer("scancel", first=f"/bin/rm {slurm.folder}/sbatch.calls")
    with started(tmp_path, [*launch, "training.steps=4"]) as process:
        printed = waits(process)
    assert "waiting for the end of job 42: canceled, or of other settings" in printed
    assert "submitted job 42" in printed
    assert len(slurm.calls("scancel")) == 1

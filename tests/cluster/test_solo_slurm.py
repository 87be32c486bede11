"""The jobs that a killed or interrupted run of Snakemake has in Slurm or on another machine."""

import os
import signal

import pytest

from psld.cluster import solo
from psld.utils.errors import RunError
from tests.cluster.commands import Commands
from tests.cluster.runs import SNAKEFILE, killed, wait


@pytest.fixture
def slurm(folder, tmp_path) -> Commands:
    """Stand-ins for the commands of a cluster, whose job runs on for a second after scancel."""
    commands = Commands(tmp_path / "bin")
    for command in ("scontrol", "sinfo", "sacctmgr"):
        commands.answer(command)
    commands.answer("sshare", "lab")
    commands.answer("sbatch", "7", first="touch queued")
    commands.answer("squeue", first="[ ! -e queued ] || echo 7 RUNNING")
    commands.answer("scancel", first="(sleep 1; rm -f queued) >/dev/null 2>&1 &")
    folder.environment["PATH"] = f"{commands.folder}{os.pathsep}{os.environ['PATH']}"
    return commands


ON_SLURM = (
    *("--executor", "slurm", "--jobs", "1", "--default-resources"),
    *("slurm_account=lab", "slurm_partition=cpu", "runtime=1", "mem_mb=1"),
)


def test_an_interrupt_of_snakemake_alone_ends_its_local_jobs(folder, slurm):
    """From a terminal, Ctrl-C reaches the jobs directly; this one ignores SIGINT."""
    local = SNAKEFILE.replace("rule made:", "rule made:\n    localrule: True")
    (folder.path / "Snakefile").write_text(local)
    folder.job, folder.options = f"{folder.job} psld", list(ON_SLURM)
    with folder.started() as process:
        wait(lambda: folder.pids("began"), process)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 1
    assert folder.names() == ["began", "terminated"]
    assert "Traceback" not in (folder.path / "first.log").read_text(), "it waits for local jobs"


def test_an_interrupt_cancels_jobs_in_slurm_and_does_not_wait(folder, slurm):
    """The plugin alone would end when it asks for their states, after 40 seconds."""
    folder.job, folder.options = "true", list(ON_SLURM)
    with folder.started() as process:
        wait(lambda: "Slurm job 7" in (folder.path / "first.log").read_text(), process)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 1
    name = solo._latest_run(folder.path / ".snakemake").slurm_name
    assert slurm.calls("scancel") == [f"--me --name={name}"]


def test_a_refusal_of_slurm_ends_snakemake_and_leaves_the_jobs(folder, slurm):
    slurm.answer(
        "squeue",
        first="[ ! -e queued ] || { echo Protocol authentication error >&2; exit 1; }",
    )
    folder.job, folder.options = "true", [*ON_SLURM, "--slurm-init-seconds-before-status-checks=1"]
    refused = folder.run()
    assert refused.returncode == 1
    assert refused.stderr.count("left as they are") == 1, refused.stderr
    assert "Traceback" not in refused.stderr
    assert slurm.calls("scancel") == []


def test_jobs_of_a_killed_run_have_left_slurm_before_the_next_writes(folder, slurm):
    job, folder.job, folder.options = folder.job, "true", list(ON_SLURM)
    with folder.started() as process:
        wait(lambda: (folder.path / "queued").exists(), process)
        process.kill()
    name = solo._latest_run(folder.path / ".snakemake").slurm_name
    assert f"--job-name {name} " in slurm.calls("sbatch")[0]

    folder.options, folder.job = [], f"[ ! -e queued ] && {job}"
    again = folder.run()
    assert again.returncode == 0, again.stderr
    assert "canceling what the last run left in Slurm: job 7" in again.stderr
    assert slurm.calls("scancel") == [f"--me --name={name}"]


def test_without_squeue_a_run_does_not_start_next_to_jobs_of_a_killed_one(folder, monkeypatch):
    with killed(folder):
        pass
    snakemake = folder.path / ".snakemake"
    run = solo._latest_run(snakemake)
    monkeypatch.setattr(solo.shutil, "which", lambda command: None)
    with pytest.raises(RunError, match="there is no squeue here"):
        solo._end_leftovers(run.model_copy(update={"slurm_name": "some"}), snakemake)
    solo._end_leftovers(run.model_copy(update={"slurm_name": "some", "ended": True}), snakemake)


def test_processes_on_another_machine_are_mentioned(folder, capsys):
    with killed(folder):
        pass
    snakemake = folder.path / ".snakemake"
    solo._end_leftovers(
        solo._latest_run(snakemake).model_copy(update={"host": "login2"}), snakemake
    )
    assert "killed on login2" in capsys.readouterr().err

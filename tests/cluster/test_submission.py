"""The arguments of sbatch, and the use of its answer."""

import os
import re
import shlex
from pathlib import Path

import pytest

from psld.cluster.launcher import submit
from psld.cluster.slurm import Unreachable
from psld.utils.errors import UserError
from tests.cluster.launching import launch_settings


@pytest.fixture
def submitted(slurm, tmp_path):
    """Submit a job with some settings; return its ID and the script that sbatch received."""

    def run(*overrides: str) -> tuple[str, str]:
        settings = launch_settings(*overrides, command=("train", "name=x"))
        job = submit(settings, "model-12", tmp_path)
        return job, (tmp_path / f"{job}_submission.sh").read_text()

    return run


def options_in(script: str) -> set[str]:
    return set(re.findall(r"^#SBATCH --(.*)$", script, re.MULTILINE))


ASKED = {
    "nodes=3": "nodes=3",
    "tasks_per_node=2": "ntasks-per-node=2",
    "cpus_per_task=5": "cpus-per-task=5",
    "gpus_per_node=4": "gpus-per-node=4",
    "gres=gpu:a100:4": "gres=gpu:a100:4",
    "mem_mb=1500": "mem=1500M",
    "runtime=90": "time=90",
    "warning_seconds=77": "signal=USR2@77",
    "slurm_partition=big": "partition=big",
    "slurm_account=ours": "account=ours",
    "slurm_additional_parameters=exclusive exclude=n[1-2]": "exclude='n[1-2]'",
}


def test_all_given_resources_are_requested(submitted):
    job, script = submitted(*ASKED)
    assert job == "42"
    always = {"exclusive", "job-name=model-12", "requeue", "open-mode=append"}
    assert options_in(script) >= {*ASKED.values(), *always}
    [srun] = re.findall(r"^srun .*", script, re.MULTILINE)
    assert {"--kill-on-bad-exit=1", "--wait=0", "--cpus-per-task=5"} <= set(srun.split())


def test_no_other_resources_are_requested(submitted):
    _, script = submitted()
    names = {option.partition("=")[0] for option in options_in(script)}
    always = {"cpus-per-task", "job-name", "nodes", "ntasks-per-node", "requeue", "signal", "time"}
    assert names == always | {"error", "open-mode", "output", "wckey"}, "those of submitit too"


def test_a_folder_may_have_any_name(slurm, tmp_path):
    folder = tmp_path / 'it\'s "b" $(id) `id` $HOME; & * ü'
    job = submit(launch_settings(), "model-12", folder)
    script = (folder / f"{job}_submission.sh").read_text()
    [srun] = re.findall(r"^srun .*", script, re.MULTILINE)
    assert shlex.split(srun)[-1] == str(folder)
    assert f"{folder}/%j_%t_log.out" in shlex.split(srun)
    logs = {shlex.split(option)[0] for option in options_in(script)}
    assert f"output={folder}/%j_0_log.out" in logs


def test_a_folder_whose_name_slurm_cannot_use_for_logs_is_refused(slurm, tmp_path):
    for name in ("100%j", "back\\slash", "two\nlines"):
        with pytest.raises(UserError, match="set runs to another folder") as refused:
            submit(launch_settings(), "model-12", tmp_path / name)
        assert "\n" not in str(refused.value)
    assert slurm.calls("sbatch") == []


def test_variables_of_a_surrounding_job_are_not_passed_on(slurm, submitted, tmp_path, monkeypatch):
    """This process keeps the variables, because it still belongs to the surrounding job."""
    of_a_job = {"SLURM_JOB_ID", "SLURM_MEM_PER_NODE", "SBATCH_PARTITION", "SUBMITIT_EXECUTOR"}
    inherited = {"CUDA_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "PSLD_RUN", "OMP_NUM_THREADS", "TMP"}
    kept = {"SLURM_CONF", "HOME_OF_DATA", "MY_TMPDIR", "PSLD_RUNNER"}
    for name in of_a_job | inherited | kept:
        monkeypatch.setenv(name, "x")
    before = dict(os.environ)
    slurm.answer("sbatch", "Submitted batch job 42\n", first=f"export -p > {tmp_path}/environment")
    submitted()
    assert dict(os.environ) == before
    seen = re.findall(r"\b(\w+)=", (tmp_path / "environment").read_text())
    assert {*seen} & (of_a_job | inherited | kept) == kept


def test_rejected_options_raise_a_user_error(slurm, submitted, tmp_path):
    complaint = "sbatch: error: invalid partition specified: tiny\n"
    slurm.answer("sbatch", stderr=complaint, exit_code=1)
    with pytest.raises(UserError, match=r"specified: tiny.*slurm_partition=tiny") as refused:
        submitted("slurm_partition=tiny")
    assert "\n" not in str(refused.value)
    assert not list(Path(tmp_path).glob("*_submission.sh"))


def test_a_controller_that_is_down_is_not_a_user_error(slurm, submitted):
    for reason in (
        "Unable to contact slurm controller (connect failure)",
        "Socket timed out on send/recv operation",
        "Connection refused",
        "Connection timed out",
        "Zero Bytes were transmitted or received",
        "Resource temporarily unavailable",
        "AssocMaxSubmitJobLimit",
    ):
        complaint = f"Batch job submission failed: {reason}"
        slurm.answer("sbatch", stderr=f"sbatch: error: {complaint}\n", exit_code=1)
        with pytest.raises(Unreachable, match=re.escape(complaint)):
            submitted()

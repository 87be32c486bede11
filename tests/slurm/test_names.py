"""Real jobs from a folder whose name a shell would run, if it read it."""

import os
import subprocess
import sys

from psld.cluster.launcher import submit
from tests.cluster.launching import launch_settings
from tests.slurm.system import wait_until
from tests.slurm.training import REPOSITORY

AWKWARD = 'it\'s $(touch expanded) `touch expanded` "$HOME"; touch expanded & * ü'

SNAKEFILE = """
rule sample:
    output: "sample/0"
    shell: "pwd > {output}"
"""


def test_snakemake_in_a_folder_with_an_awkward_name(cluster, tmp_path):
    """sbatch would also expand the %j."""
    folder = tmp_path / f"{AWKWARD} %j \\ \nzwei"
    folder.mkdir()
    (folder / "Snakefile").write_text(SNAKEFILE)
    resources = ("slurm_partition=normal", "runtime=10", "mem_mb=500", "cpus_per_task=1")
    slurm = ("--workflow-profile=none", "--executor=psld", "--jobs=4", "--cores=1")
    options = ("--psld-init-seconds-before-status-checks=1",)
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", *slurm, *options, "--default-resources", *resources],
        cwd=folder,
        env={**os.environ, **cluster.environment, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (folder / "sample/0").read_text() == f"{folder}\n"
    assert list(tmp_path.rglob("expanded")) == []


def test_a_launch_in_a_folder_with_an_awkward_name(cluster, tmp_path, monkeypatch):
    """The command of its rank is none; the rank finds it and says so in its log."""
    folder = tmp_path / AWKWARD
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    for name, value in {**cluster.environment, "PYTHONPATH": str(REPOSITORY)}.items():
        monkeypatch.setenv(name, value)
    words = ("runtime=5", "mem_mb=500", "warning_seconds=60")
    job = submit(launch_settings(*words, command=["no such"]), "name", folder)
    wait_until(lambda: cluster.job(job)["JobState"] == "FAILED", 120, "the rank ends")
    assert "no such" in (folder / f"{job}_0_log.err").read_text()
    assert list(tmp_path.rglob("expanded")) == []

"""A PATH with stand-ins for Slurm's commands alone, and a folder in which Snakemake runs."""

import pytest

from tests.cluster.commands import Commands
from tests.cluster.runs import JOB, SNAKEFILE, Folder


@pytest.fixture
def commands(tmp_path, monkeypatch) -> Commands:
    """Initially without any command, as on a machine without Slurm."""
    commands = Commands(tmp_path / "bin")
    monkeypatch.setenv("PATH", str(commands.folder))
    for name in ("SLURM_CONF", "SLURM_JOB_ID", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    return commands


@pytest.fixture
def slurm(commands) -> Commands:
    """A cluster whose jobs wait forever."""
    commands.answer("scontrol", "Slurmctld(primary) is UP\n")
    commands.answer("sbatch", "Submitted batch job 42\n")
    commands.answer("srun")
    commands.answer("scancel")
    # After a submission, squeue lists the job.
    pending = f"[ ! -e {commands.folder}/sbatch.calls ] || echo 42 PENDING None"
    commands.answer("squeue", first=pending)
    return commands


@pytest.fixture
def folder(tmp_path) -> Folder:
    path = tmp_path / "work"
    path.mkdir()
    (path / "Snakefile").write_text(SNAKEFILE)
    (path / "job.py").write_text(JOB)
    return Folder(path)

"""The tests' tiny grid on the cluster, run through the project's own profile."""

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import yaml

from tests.slurm.cluster import Cluster
from tests.slurm.system import process_group, wait_until
from tests.workflow.project import Project

LAB = {"slurm_partition": "normal", "mem_mb": 1500, "cpus_per_task": 1, "runtime": 10}
"""The changes of a site in profiles/slurm: small nodes and one partition."""


def lab_profile(profile: dict) -> dict:
    """profiles/slurm of a site `test`, whose trainings use two nodes with two GPUs each."""
    rules = {
        rule: {**asked, **LAB, "gres": "gpu:1"} for rule, asked in profile["set-resources"].items()
    }
    for training in ("train", "train_guide"):
        rules[training] |= {"nodes": 2, "gres": "gpu:2"}
    return {
        **profile,
        "default-resources": LAB,
        "set-resources": rules,
        "psld-init-seconds-before-status-checks": 1,
    }


class ClusterProject(Project):
    """A project whose Snakemake submits to the cluster."""

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        super().__init__(folder)
        self.cluster = cluster
        self.log = folder / "snakemake.log"
        profile = yaml.safe_load((folder / "profiles/slurm/config.yaml").read_text())
        lab = folder / "profiles" / "lab" / "config.yaml"
        lab.parent.mkdir(exist_ok=True)
        lab.write_text(yaml.safe_dump(lab_profile(profile)))

    def command(self, *arguments: str) -> list[str]:
        return super().command(*arguments, profile="profiles/lab")

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, **self.cluster.environment}

    @contextlib.contextmanager
    def started(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """Start Snakemake with its output in snakemake.log, and kill it at the end."""
        command = self.command(*arguments)
        with process_group(command, self.folder, self.environment, self.log) as process:
            yield process

    def wait(self, condition: Callable[[], bool], what: str, seconds: float = 300) -> None:
        wait_until(condition, seconds, what, self.log)

    def jobs(self) -> list[dict[str, str]]:
        """Return the accounting records of the jobs that were submitted from this folder."""
        return [job for job in self.cluster.accounting() if job["workdir"] == str(self.folder)]

    def running(self) -> list[dict[str, str]]:
        return self.cluster.queue("--states=RUNNING")

"""A training that a test launches on the cluster, disturbs, and inspects after its end."""

import contextlib
import itertools
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from psld.utils.files import read_json
from tests.commands import TINY, command
from tests.slurm.cluster import Cluster
from tests.slurm.machine import read_of
from tests.slurm.system import process_group, wait_until

REPOSITORY = Path(__file__).resolve().parents[2]
RANKS = ("nodes=2", "tasks_per_node=1", "mem_mb=1500", "runtime=30", "warning_seconds=60")
"""The default resources of trainings. Each rank takes seconds for imports."""

STEPS = 300
EVERY = 29
"""The number of steps between checkpoints. Warned ranks agree on a multiple of ten, which the tests
detect."""

RECIPE = (
    *TINY,
    "network.dropout=0.1",
    f"training.steps={STEPS}",
    f"training.checkpoint_every={EVERY}",
    "training.log_every=50",
)
"""A training of about ten seconds, with all random operations."""


class Training:
    """One training in a separate folder."""

    def __init__(self, cluster: Cluster, folder: Path, data: Path) -> None:
        self.cluster = cluster
        self.folder = folder
        self.data = data

    def command(self, *where: str, recipe: tuple[str, ...] = RECIPE) -> list[str]:
        launch = command("launch", *RANKS, *where)
        return [*launch, "--", "train", *recipe, f"data={self.data}", "output=model"]

    @contextlib.contextmanager
    def launched(self, *where: str, **options) -> Iterator[subprocess.Popen[str]]:
        """Start a launcher with its output in launcher.log, and kill it at the end."""
        launch = self.command(*where, **options)
        with process_group(launch, self.folder, self.environment, self.log) as process:
            yield process

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a launcher. The folder is first on Python's path, for a
        sitecustomize.py of a test."""
        path = os.pathsep.join((str(self.folder), str(REPOSITORY)))
        return {**os.environ, **self.cluster.environment, "PYTHONPATH": path}

    @property
    def log(self) -> Path:
        return self.folder / "launcher.log"

    def says(self, text: str) -> None:
        """Wait until a launcher has printed this text."""
        self.wait(lambda: text in self.log.read_text(), text)

    def finishes(self, process: subprocess.Popen[str], code: int = 0) -> str:
        """Wait for the launcher's end, assert its exit code, and return its output."""
        process.wait(timeout=600)
        assert process.returncode == code, self.log.read_text()
        return self.log.read_text()

    def jobs(self) -> list[str]:
        """Return the IDs of all submitted jobs, oldest first."""
        return re.findall(r"submitted job (\d+)", self.log.read_text())

    @property
    def job(self) -> str:
        """The job that trains."""
        return self.jobs()[-1]

    def lives(self) -> list[dict[str, str]]:
        """Return the accounting records of all runs of all jobs of the training."""
        return self.cluster.accounting(f"--jobs={','.join(self.jobs())}")

    def ended_lives(self) -> list[dict[str, str]]:
        """Return the same records after all runs have ended."""
        going_on = {"PENDING", "RUNNING", "COMPLETING", "REQUEUED"}
        self.wait(lambda: self.lives()[-1]["state"] not in going_on, "end in accounting")
        return self.lives()

    def begun(self) -> list[int]:
        """Return the steps at which the training started or resumed."""
        jobs = [read_json(file).values() for file in self.folder.glob("runs/*/lives.json")]
        return [step for job in itertools.chain(*jobs) for step in job]

    @property
    def run(self) -> Path:
        """The run directory."""
        (file,) = self.folder.glob("runs/*/lives.json")
        return file.parent

    def step(self) -> int:
        """Return the step of the newest checkpoint."""
        files = self.folder.glob("runs/*/checkpoints/checkpoint-*.pt")
        return max((int(file.stem.split("-")[1]) for file in files), default=0)

    def reaches(self, step: int) -> None:
        self.wait(lambda: self.step() >= step, f"step {step}")

    def fails_within_a_minute(self) -> None:
        """Wait for the end of the job in Slurm; its launcher may notice it some seconds later."""
        job = self.job
        self.wait(lambda: self.cluster.job(job)["JobState"] == "FAILED", "failure", seconds=60)

    def is_in(self, state: str) -> None:
        self.wait(lambda: self.cluster.job(self.job)["JobState"] == state, state)

    def wait(self, condition: Callable[[], bool], what: str, seconds: float = 300) -> None:
        wait_until(condition, seconds, what, self.log)

    def nodes(self) -> list[str]:
        """Return the nodes on which the job runs."""
        return self.cluster.host_names(self.cluster.job(self.job)["NodeList"])

    def ends_within_its_warning_time(self) -> None:
        """Shorten the job's time limit so that Slurm warns the job at its next check of time
        limits.

        Slurm checks every 30 seconds. A short training would have ended by then, so its ranks are
        frozen. Slurm resumes them (SIGCONT) before the warning.
        """
        end = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + 50))
        for rank in [rank for node in self.nodes() for rank in self.ranks_on(node)]:
            os.kill(rank, signal.SIGSTOP)
        self.cluster.run("scontrol", "update", f"JobId={self.job}", f"EndTime={end}")

    def weights(self) -> dict[str, Tensor]:
        return load_file(self.folder / "model" / "weights.safetensors")

    def ranks_on(self, node: str) -> list[int]:
        """Return the IDs of the processes of the training's ranks on a node."""
        commands = {pid: read_of(pid, "cmdline") for pid in self.cluster.processes(node)}
        rank = ["-m", "submitit.core._submit"]
        return [pid for pid, words in commands.items() if words.split("\0")[2:4] == rank]

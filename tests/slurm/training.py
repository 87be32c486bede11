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
"""Where the trainings run if a test does not say otherwise; each rank has seconds of imports."""

STEPS = 300
EVERY = 29
"""Steps between checkpoints: ranks that are warned agree on a multiple of ten, which shows."""

RECIPE = (
    *TINY,
    "network.dropout=0.1",
    f"training.steps={STEPS}",
    f"training.checkpoint_every={EVERY}",
    "training.log_every=50",
)
"""A training of some ten seconds, with everything that is random in it."""


class Training:
    """One training in a folder of its own."""

    def __init__(self, cluster: Cluster, folder: Path, data: Path) -> None:
        self.cluster = cluster
        self.folder = folder
        self.data = data

    def command(self, *where: str, recipe: tuple[str, ...] = RECIPE) -> list[str]:
        launch = command("launch", *RANKS, *where)
        return [*launch, "--", "train", *recipe, f"data={self.data}", "output=model"]

    @contextlib.contextmanager
    def launched(self, *where: str, **options) -> Iterator[subprocess.Popen[str]]:
        """A launcher that waits for the training, its output in launcher.log; killed at the end."""
        launch = self.command(*where, **options)
        with process_group(launch, self.folder, self.environment, self.log) as process:
            yield process

    @property
    def environment(self) -> dict[str, str]:
        """The folder comes first, for a sitecustomize.py that a test puts there."""
        path = os.pathsep.join((str(self.folder), str(REPOSITORY)))
        return {**os.environ, **self.cluster.environment, "PYTHONPATH": path}

    @property
    def log(self) -> Path:
        return self.folder / "launcher.log"

    def says(self, text: str) -> None:
        """Wait until a launcher has said so."""
        self.wait(lambda: text in self.log.read_text(), text)

    def finishes(self, process: subprocess.Popen[str], code: int = 0) -> str:
        """Wait for the launcher's end; its exit code must be `code`. What it printed."""
        process.wait(timeout=600)
        assert process.returncode == code, self.log.read_text()
        return self.log.read_text()

    def jobs(self) -> list[str]:
        """Ids of all jobs that were submitted, oldest first."""
        return re.findall(r"submitted job (\d+)", self.log.read_text())

    @property
    def job(self) -> str:
        """The job that trains."""
        return self.jobs()[-1]

    def lives(self) -> list[dict[str, str]]:
        """What accounting knows of all lives of all jobs of the training."""
        return self.cluster.accounting(f"--jobs={','.join(self.jobs())}")

    def ended_lives(self) -> list[dict[str, str]]:
        """The same, once it knows that all have ended."""
        going_on = {"PENDING", "RUNNING", "COMPLETING", "REQUEUED"}
        self.wait(lambda: self.lives()[-1]["state"] not in going_on, "end in accounting")
        return self.lives()

    def begun(self) -> list[int]:
        """The steps at which the training's lives began."""
        jobs = [read_json(file).values() for file in self.folder.glob("runs/*/lives.json")]
        return [step for job in itertools.chain(*jobs) for step in job]

    @property
    def run(self) -> Path:
        """The run directory."""
        (file,) = self.folder.glob("runs/*/lives.json")
        return file.parent

    def step(self) -> int:
        """The step of the newest checkpoint."""
        files = self.folder.glob("runs/*/checkpoints/checkpoint-*.pt")
        return max((int(file.stem.split("-")[1]) for file in files), default=0)

    def reaches(self, step: int) -> None:
        self.wait(lambda: self.step() >= step, f"step {step}")

    def fails_within_a_minute(self) -> None:
        """Wait for the end of the job in Slurm; its launcher may look some seconds later."""
        job = self.job
        self.wait(lambda: self.cluster.job(job)["JobState"] == "FAILED", "failure", seconds=60)

    def is_in(self, state: str) -> None:
        self.wait(lambda: self.cluster.job(self.job)["JobState"] == state, state)

    def wait(self, condition: Callable[[], bool], what: str, seconds: float = 300) -> None:
        wait_until(condition, seconds, what, self.log)

    def nodes(self) -> list[str]:
        """The nodes that the job runs on."""
        return self.cluster.host_names(self.cluster.job(self.job)["NodeList"])

    def ends_within_its_warning_time(self) -> None:
        """Bring the job's time limit so near that Slurm warns it when it next looks at the clock.

        That is every 30 seconds, in which a training this short would be over: its ranks are frozen
        until then. Slurm lets them go on (SIGCONT) before it warns them.
        """
        end = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + 50))
        for rank in [rank for node in self.nodes() for rank in self.ranks_on(node)]:
            os.kill(rank, signal.SIGSTOP)
        self.cluster.run("scontrol", "update", f"JobId={self.job}", f"EndTime={end}")

    def weights(self) -> dict[str, Tensor]:
        return load_file(self.folder / "model" / "weights.safetensors")

    def ranks_on(self, node: str) -> list[int]:
        """Ids of the processes of the training's ranks there."""
        commands = {pid: read_of(pid, "cmdline") for pid in self.cluster.processes(node)}
        rank = ["-m", "submitit.core._submit"]
        return [pid for pid, words in commands.items() if words.split("\0")[2:4] == rank]

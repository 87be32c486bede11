"""The head process over many jobs: jobs a minute, its memory, file descriptors and threads.

    python -m benchmarks.long_run 1000

A made-up workflow goes through the tests' cluster of four nodes (tests/slurm/install.sh) with the
project's profile, executor and lock: ten jobs a cell. The controller is stopped twice for a while.
Only what a job runs is made up: in place of a Snakemake process, a short script that writes the
job's output, because the head process is measured.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import psutil
import yaml

from tests.slurm.cluster import Cluster
from tests.slurm.project import ClusterProject, lab_profile
from tests.workflow.project import REPOSITORY

DOWN_SECONDS = 90
"""How long the controller is away each time: longer than squeue itself waits for it."""

SNAKEFILE = """\
import sys
from psld.cluster.executor import Executor
from psld.cluster.head import begin_run

Executor.format_job_exec = lambda executor, job: f"{sys.executable} -IS job.py {job.output[0]}"

onstart:
    begin_run()

rule all:
    input: expand("cells/{cell}", cell=range(int(config["cells"])))
    localrule: True

rule evaluate:
    input: expand("shards/{{cell}}/{shard}", shard=range(9))
    output: "cells/{cell}"
    shell: ""

rule sample:
    output: "shards/{cell}/{shard}"
    shell: ""
"""

JOB = """\
import sys

with open(sys.argv[1], "w") as stream:
    stream.write("made\\n")
"""


class LongRun(ClusterProject):
    """The made-up workflow in a folder."""

    def __init__(self, folder: Path, cluster: Cluster, cells: int) -> None:
        self.folder, self.cluster, self.cells = folder, cluster, cells
        self.log = folder / "snakemake.log"
        (folder / "Snakefile").write_text(SNAKEFILE)
        (folder / "job.py").write_text(JOB)
        (folder / "psld").symlink_to(REPOSITORY / "psld")
        (folder / "cells").mkdir()
        for cell in range(cells):
            (folder / f"shards/{cell}").mkdir(parents=True)
        profile = yaml.safe_load((REPOSITORY / "profiles/slurm/config.yaml").read_text())
        pause = "psld-init-seconds-before-status-checks"
        lab = {**lab_profile(profile), pause: profile[pause]}
        lab["set-resources"] = {rule: lab["set-resources"][rule] for rule in ("sample", "evaluate")}
        (folder / "profiles/lab").mkdir(parents=True)
        (folder / "profiles/lab/config.yaml").write_text(yaml.safe_dump(lab))

    @property
    def done(self) -> int:
        """The number of jobs that have written their output."""
        return sum(1 for folder in ("cells", "shards/*") for _ in self.folder.glob(f"{folder}/*"))

    def measure(self) -> None:
        jobs, largest = 10 * self.cells, {}
        marks = {1: "start", jobs // 4: "a quarter", jobs // 2: "half", jobs: "end"}
        downs = [jobs // 3, 2 * jobs // 3]
        with self.started("--cores", "all", "all", "--config", f"cells={self.cells}") as snakemake:
            head = psutil.Process(snakemake.pid)
            started = first = time.monotonic()
            while snakemake.poll() is None:
                done = self.done
                try:
                    spent = sum(head.cpu_times()[:2])
                    now = {
                        "MB": head.memory_info().rss / 1e6,
                        "descriptors": head.num_fds(),
                        "threads": head.num_threads(),
                    }
                except psutil.NoSuchProcess:
                    continue  # It has just ended.
                largest = {what: max(n, largest.get(what, 0)) for what, n in now.items()}
                if done and done >= min(marks, default=done + 1):
                    first = time.monotonic() if 1 in marks else first
                    self._report(marks.pop(min(marks)), done, time.monotonic() - first, largest)
                    largest = {}
                if downs and done >= downs[0]:
                    downs.pop(0)
                    self.cluster.stop_controller()
                    time.sleep(DOWN_SECONDS)
                    self.cluster.start_controller()
                time.sleep(1)
        took = time.monotonic() - started
        if snakemake.returncode or self.done < jobs:
            sys.exit(f"{self.done} of {jobs} jobs:\n{self.log.read_text()[-5000:]}")
        up = took - 2 * DOWN_SECONDS
        print(
            f"{jobs} jobs in {took / 60:.1f} minutes, {2 * DOWN_SECONDS / 60:.0f} of them without "
            f"a controller: {jobs / up * 60:.0f} jobs a minute in the others; processor time of "
            f"the head: {spent:.0f} s"
        )

    def _report(self, when: str, done: int, seconds: float, largest: dict[str, float]) -> None:
        values = ", ".join(f"{value:.0f} {what}" for what, value in largest.items())
        print(f"{when}: {done} jobs after {seconds / 60:.1f} minutes; at most {values}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.long_run")
    parser.add_argument("jobs", type=int, nargs="?", default=1000)
    cells = parser.parse_args().jobs // 10
    with tempfile.TemporaryDirectory() as name, Cluster(Path(name) / "cluster") as cluster:
        folder = Path(name) / "project"
        folder.mkdir()
        LongRun(folder, cluster, cells).measure()


if __name__ == "__main__":
    main()

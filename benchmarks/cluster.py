"""Measure the overhead of a cluster: start and restart of a training, and shards of a cell.

    python -m benchmarks.cluster starts      # time to the first step, and cost of a preemption
    python -m benchmarks.cluster launchers   # cost of waiting launchers on a login node
    python -m benchmarks.cluster shards      # 100 shards, in one job per shard
    python -m benchmarks.cluster demo        # the demo's tables, compared with `make demo`

The benchmarks run on the test cluster of four nodes on this machine (tests/slurm/install.sh). The
jobs share this machine's cores, and the scheduler is faster than on a real cluster.
"""

import argparse
import contextlib
import csv
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

from tests.commands import call, succeeded
from tests.slurm.cluster import Cluster
from tests.slurm.project import ClusterProject
from tests.slurm.training import RECIPE, Training
from tests.workflow.project import GRID, REPOSITORY, Project

SAVING_EACH_STEP = (*RECIPE, "training.checkpoint_every=1", "training.steps=20")
ONE_NODE = ("nodes=1", "tasks_per_node=2")
LAUNCHERS = 50
SHARDS = 100


def seconds_to_first_step(training: Training, *where: str) -> float:
    """Measure the time from the launcher's start until the first step is saved."""
    started = time.perf_counter()
    with training.launched(*ONE_NODE, *where, recipe=SAVING_EACH_STEP):
        training.reaches(1)
        return time.perf_counter() - started


def seconds_of_training(training: Training, *where: str, requeues: int = 0) -> float:
    """Measure the time from step 50 to the end; the job is requeued `requeues` times."""
    recipe = (*RECIPE, "training.steps=1000")
    with training.launched(*where, recipe=recipe) as launcher:
        training.reaches(50)
        started = time.perf_counter()
        for number in range(requeues):
            training.reaches(200 * (number + 1))
            training.is_in("RUNNING")
            training.cluster.run("scontrol", "requeue", training.job)
        training.finishes(launcher)
        return time.perf_counter() - started


def measure_starts(cluster: Cluster, folder: Path, data: Path) -> None:
    trainings = (Training(cluster, new_folder(folder), data) for _ in iter(int, 1))
    for _ in range(3):
        here = seconds_to_first_step(next(trainings), "where=here")
        submitted = seconds_to_first_step(next(trainings))
        cluster.reset()
        print(f"first step: {submitted:.1f} s from submission, {here:.1f} s on this machine")
    undisturbed = seconds_of_training(next(trainings))
    disturbed = seconds_of_training(next(trainings), requeues=3)
    print(
        f"1,000 steps: {disturbed:.0f} s in four lives, {undisturbed:.0f} s in one: "
        f"{(disturbed - undisturbed) / 3:.1f} s lost a life"
    )


def measure_launchers(cluster: Cluster, folder: Path, data: Path) -> None:
    """Measure start-up, memory and CPU time of launchers whose jobs are held."""
    started = time.perf_counter()
    training = Training(cluster, new_folder(folder), data)
    with training.launched("slurm_additional_parameters=hold"):
        training.says("submitted job")
        print(f"launcher: job submitted {time.perf_counter() - started:.1f} s after its start")
    with contextlib.ExitStack() as stack:
        waiting = [Training(cluster, new_folder(folder), data) for _ in range(LAUNCHERS)]
        processes = []
        for training in waiting:
            launcher = stack.enter_context(training.launched("slurm_additional_parameters=hold"))
            training.says("is pending")
            processes.append(psutil.Process(launcher.pid))
        time.sleep(60)  # Wait while the polling interval of the launchers grows.
        spent = sum(sum(process.cpu_times()) for process in processes)
        time.sleep(60)
        spent = sum(sum(process.cpu_times()) for process in processes) - spent
        each = processes[0].memory_info().rss / 1e6
        shared = sum(process.memory_full_info().pss for process in processes) / 1e9
    print(
        f"{LAUNCHERS} launchers: {each:.0f} MB each, {shared:.1f} GB together, "
        f"{spent / 60 * 100:.0f} % of a core"
    )


def measure_shards(cluster: Cluster, folder: Path, _: Path) -> None:
    """Measure the sampling of a cell with 100 shards of ten images each, one shard per job."""
    Project.create(folder / "made")
    project = ClusterProject(folder / "made", cluster)
    project.edit(GRID, "samples: 20", f"samples: {SHARDS * 10}")
    project.edit(GRID, "shard_size: 5", "shard_size: 10")
    project.edit(GRID, "shards_per_job: 2", "shards_per_job: 1")
    project.run("models/tiny/psld/manifest.json")
    started = time.perf_counter()
    project.run(*(f"samples/tiny/psld/em-3/{i:05d}-{i:05d}.json" for i in range(SHARDS)))
    print(f"{SHARDS} shards: {time.perf_counter() - started:.0f} s")


def measure_demo(cluster: Cluster, folder: Path, _: Path) -> None:
    """Measure the demo's grid as Slurm jobs. Trainings use two nodes with two ranks each."""
    here = numbers_of(REPOSITORY)
    Project.create(folder / "project")
    shutil.copy(REPOSITORY / "configs/grid/demo.yaml", folder / "project/configs/grid")
    project = ClusterProject(folder / "project", cluster)
    project.timeout = 3600
    started = time.perf_counter()
    project.run("demo")
    taken = time.perf_counter() - started
    states = Counter(job["state"] for job in project.jobs())
    print(f"demo: {taken:.0f} s, jobs by their end: {dict(states)}")
    there = numbers_of(project.folder)
    differences = [abs(there[entry] / here[entry] - 1) for entry in here]
    print(
        f"{len(differences)} numbers differ from one machine's by {max(differences):.1%} at "
        f"most, by {statistics.median(differences):.1%} in the median"
    )


def numbers_of(project: Path) -> dict[tuple[str, ...], float]:
    """Read the measured numbers from the tables of the demo's grid in a project."""
    tables = sorted(project.glob("results/tables/demo/*.csv"))
    if not tables:
        sys.exit(f"{project}: no tables of the demo; first run make demo")
    rows = [row for table in tables for row in csv.DictReader(table.read_text().splitlines())]
    return {(row["cell"], row["metric"], row["shows"]): float(row["ours"]) for row in rows}


def new_folder(parent: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=parent))


def main() -> None:
    sys.stdout.reconfigure(line_buffering=True)
    measures = {
        "starts": measure_starts,
        "launchers": measure_launchers,
        "shards": measure_shards,
        "demo": measure_demo,
    }
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cluster")
    parser.add_argument("what", choices=measures)
    what = parser.parse_args().what
    with tempfile.TemporaryDirectory() as name, Cluster(Path(name) / "cluster") as cluster:
        folder = Path(name)
        succeeded(call(folder, "prepare", "dataset=digits", "output=digits.h5"))
        measures[what](cluster, folder, folder / "digits.h5")


if __name__ == "__main__":
    main()

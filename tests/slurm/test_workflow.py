"""The workflow on the cluster: the tiny grid, and the cost of a killed Snakemake or job."""

import csv
import os
import shutil
import signal

import pytest

from tests.slurm.cluster import Cluster
from tests.slurm.project import ClusterProject
from tests.workflow.project import GRID, WHOLE_GRID, Project


@pytest.fixture(scope="session")
def made_on_cluster(cluster: Cluster, tmp_path_factory) -> ClusterProject:
    """The project after one real run of its grid, with trainings on 2 nodes × 2 ranks."""
    folder = tmp_path_factory.mktemp("cluster") / "project"
    Project.create(folder)
    project = ClusterProject(folder, cluster)
    project.run("tiny")
    return project


@pytest.fixture
def project(made_on_cluster, cluster, tmp_path) -> ClusterProject:
    """A copy that a test may change."""
    folder = tmp_path / "project"
    made_on_cluster.copy(folder)
    return ClusterProject(folder, cluster)


def values(project: Project, table: str) -> dict[tuple[str, str], float]:
    with (project.folder / f"results/tables/tiny/{table}.csv").open() as stream:
        return {(row["cell"], row["shows"]): float(row["ours"]) for row in csv.DictReader(stream)}


def test_the_grid_has_the_tables_of_one_machine(made_on_cluster, tmp_path):
    here = Project.create(tmp_path / "here")
    here.run_in_one_process("tiny")
    for table in ("tiny-steps", "tiny-tolerance"):
        assert values(made_on_cluster, table) == pytest.approx(values(here, table), rel=1e-3)
    assert made_on_cluster.plan("tiny") == {}


def test_every_job_ran_once(made_on_cluster):
    jobs = made_on_cluster.jobs()
    assert {job["state"] for job in jobs} == {"COMPLETED"}
    trainings = [job for job in jobs if "gres/gpu=4" in job["alloctres"]]
    assert len(trainings) == WHOLE_GRID["train"]
    assert len(jobs) == sum(WHOLE_GRID.values())


def test_a_killed_sampling_job_costs_the_shard_under_way(project):
    project.edit(
        GRID,
        '- {label: "3", budget: 3}',
        '- {label: "3", budget: 3}\n      - {label: "long", budget: 2000}',
    )
    folder = project.folder / "samples/tiny/psld/em-2000"
    done = [folder / "00000.safetensors", folder / "00002.safetensors"]
    with project.started("tiny/psld/em-2000") as snakemake:
        project.wait(lambda: all(path.exists() for path in done), "the first shard of both jobs")
        victim = project.running()[0]["jobid"]
        written = [path.stat().st_mtime_ns for path in done]
        project.cluster.run("scancel", "--signal=KILL", victim)
        snakemake.wait(timeout=600)
    assert snakemake.returncode == 0, project.log.read_text()
    states = [job["state"].split()[0] for job in project.jobs()]
    assert sorted(states) == ["CANCELLED", "COMPLETED", "COMPLETED", "COMPLETED"], (
        "two jobs of two shards, the killed one once more, and the evaluation"
    )
    assert [path.stat().st_mtime_ns for path in done] == written
    assert len(list(folder.glob("*.safetensors"))) == 4


def slow_training(project: ClusterProject) -> str:
    """Change one model, so that it trains again for about ten seconds; return its manifest."""
    steps = "training.steps=300, training.checkpoint_every=50"
    project.edit(GRID, "[process=psld]", f"[process=psld, {steps}]")
    return "models/tiny/psld/manifest.json"


def test_snakemake_killed_and_started_again_waits_for_the_same_job(project):
    target = slow_training(project)
    with project.started(target) as snakemake:
        project.wait(lambda: project.running() != [], "training")
        os.killpg(snakemake.pid, signal.SIGKILL)
    project.run(target)
    assert [job["state"] for job in project.jobs()] == ["COMPLETED"]
    assert project.plan(target) == {}


@pytest.mark.parametrize("whole_group", [True, False])
def test_ctrl_c(project, whole_group):
    """The signal goes to every process, as from a terminal, or to Snakemake alone."""
    target = slow_training(project)
    shutil.rmtree(project.folder / "samples/tiny/vp-sde")
    records = [f"samples/tiny/vp-sde/em-3/{name}.json" for name in ("00000-00001", "00002-00003")]
    with project.started(target, *records) as snakemake:
        project.wait(lambda: len(project.cluster.queue()) >= 3, "training and samplings")
        if whole_group:
            os.killpg(snakemake.pid, signal.SIGINT)
        else:
            snakemake.send_signal(signal.SIGINT)
        snakemake.wait(timeout=60)
        assert snakemake.returncode != 0
        project.wait(lambda: project.cluster.queue() == [], "empty queue")

    def ends() -> list[str]:
        return [job["state"].split()[0] for job in project.jobs()]

    project.wait(lambda: ends() == ["CANCELLED"] * 3, "jobs that were canceled")

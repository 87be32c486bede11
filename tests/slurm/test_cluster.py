"""The test cluster: its nodes, GPUs, failures and accounting."""

import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster
from tests.slurm.machine import link_of, read_of
from tests.slurm.system import wait_until

ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")


class Job:
    """A batch job that runs the lines of `script`; its output survives its requeues."""

    def __init__(self, cluster: Cluster, folder: Path, script: str, *options: str) -> None:
        self._cluster = cluster
        fixed = ("--parsable", f"--output={folder}/%j.txt", "--open-mode=append")
        self.id = cluster.run("sbatch", *fixed, *options, "--wrap", script).strip()
        self._output = folder / f"{self.id}.txt"

    @property
    def state(self) -> str:
        return self._cluster.job(self.id)["JobState"]

    def output(self) -> list[str]:
        return self._output.read_text().splitlines() if self._output.exists() else []

    def wait_for_output(self) -> None:
        wait_until(lambda: bool(self.output()), 120, f"job {self.id} writes its first line")

    def wait_for_end(self, seconds: float = 120) -> None:
        wait_until(lambda: self.state in ENDED, seconds, f"job {self.id} ends")

    def lives(self) -> list[str]:
        """The state in which accounting has each of the job's lives."""
        return [life["state"] for life in self._cluster.accounting(f"--jobs={self.id}")]


@pytest.fixture
def submit(cluster, tmp_path):
    return lambda script, *options: Job(cluster, tmp_path, script, *options)


def test_these_tests_are_marked(request):
    assert request.node.get_closest_marker("slurm")


def test_four_nodes_are_idle(cluster):
    assert cluster.node_states() == dict.fromkeys(("node1", "node2", "node3", "node4"), "idle")


def test_partitions(cluster):
    limits = dict(line.split() for line in cluster.run("sinfo", "-h", "-o", "%P %l").splitlines())
    assert limits.keys() == {"normal*", "low", "low-now", "high", "short"}
    assert limits["short"] == "1:00"


def test_job_over_two_nodes_sees_two_host_names_that_resolve(submit):
    job = submit("srun sh -c 'getent hosts $(hostname)'", "--nodes=2")
    job.wait_for_end()
    lines = [line.split() for line in job.output()]
    assert {address for address, *_ in lines} == {"127.0.0.1"}
    assert len(lines) == 2
    assert job.state == "COMPLETED"


def test_host_names_and_gpus_of_a_step(cluster):
    step = (
        "srun",
        "--nodes=2",
        "--gres=gpu:2",
        "sh",
        "-c",
        "echo $(hostname) $CUDA_VISIBLE_DEVICES",
    )
    assert sorted(cluster.run(*step).splitlines()) == ["node1 0,1", "node2 0,1"]


def test_jobs_find_the_cluster_without_its_variable(submit):
    job = submit("unset SLURM_CONF; scontrol ping")
    job.wait_for_end()
    assert "head is UP" in job.output()[0]


def test_job_of_a_killed_node_runs_elsewhere(cluster, submit):
    job = submit("srun sh -c 'hostname; sleep 4'", "--nodes=2", "--gres=gpu:2")
    job.wait_for_output()
    dead = cluster.job(job.id)["BatchHost"]
    cluster.kill_node(dead)
    assert cluster.processes(dead) == []

    job.wait_for_end(300)
    assert job.state == "COMPLETED"
    assert dead not in job.output()[-2:]
    wait_until(lambda: job.lives() == ["NODE_FAIL", "COMPLETED"], 60, "accounting has both lives")
    assert cluster.node_states()[dead] == "down*"

    cluster.start_node(dead)
    assert cluster.node_states()[dead] == "idle"


def test_job_survives_its_slurmd(cluster, submit):
    job = submit("echo begin; sleep 3; echo end")
    job.wait_for_output()
    node = cluster.job(job.id)["BatchHost"]
    cluster.kill_slurmd(node)
    programs = [read_of(pid, "comm").strip() for pid in cluster.processes(node)]
    assert "slurmstepd" in programs
    assert "slurmd" not in programs
    time.sleep(4)
    cluster.start_node(node)
    job.wait_for_end()
    assert job.output() == ["begin", "end"]
    assert cluster.job(job.id)["Restarts"] == "0"


def test_job_survives_the_controller(cluster, submit):
    job = submit("echo begin; sleep 3; echo end")
    job.wait_for_output()
    cluster.stop_controller()
    with pytest.raises(RuntimeError, match="head is DOWN"):
        cluster.run("scontrol", "ping")
    time.sleep(4)
    cluster.start_controller()
    job.wait_for_end()
    assert job.output() == ["begin", "end"]
    assert (job.state, cluster.job(job.id)["Restarts"]) == ("COMPLETED", "0")


def test_accounting_knows_how_jobs_ended(submit):
    good, bad = submit("true"), submit("exit 3")
    for job in (good, bad):
        job.wait_for_end()
    wait_until(lambda: good.lives() == ["COMPLETED"], 60, "accounting has the good job")
    wait_until(lambda: bad.lives() == ["FAILED"], 60, "accounting has the bad job")


@pytest.mark.parametrize(("partition", "grace"), [("low", 10), ("low-now", 0)])
def test_a_higher_partition_preempts(submit, partition, grace):
    warned = "trap 'echo warned' USR2; echo begin; for i in $(seq 600); do sleep 0.5; done"
    low = submit(
        warned, f"--partition={partition}", "--nodes=4", "--exclusive", "--signal=B:USR2@60"
    )
    low.wait_for_output()
    asked = time.monotonic()
    high = submit("true", "--partition=high", "--nodes=4", "--exclusive")
    high.wait_for_end()
    assert high.state == "COMPLETED"
    assert time.monotonic() - asked > grace - 2
    # Without grace it is terminated at once, and may or may not get to say anything.
    assert grace == 0 or "warned" in low.output()
    wait_until(lambda: "PREEMPTED" in low.lives(), 60, "accounting has the preemption")
    wait_until(lambda: low.state in ("PENDING", "RUNNING"), 60, "the preempted job is requeued")


def test_listens_on_loopback_only(cluster, submit):
    job = submit("srun sh -c 'echo begin; sleep 20'", "--nodes=2")
    job.wait_for_output()
    sockets = set()
    for pid in cluster.processes():
        with suppress(OSError):  # it has just ended
            files = Path(f"/proc/{pid}/fd").iterdir()
            sockets |= {link_of(pid, f"fd/{file.name}") for file in files}
    addresses = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A" and f"socket:[{inode}]" in sockets:
                addresses.add(local.split(":")[0])
    assert addresses == {"0100007F"}


def test_a_second_cluster_replaces_a_left_one_and_leaves_nothing(tmp_path):
    files = (Path("/etc/hosts"), *Path("/etc/slurm").glob("*.conf"))
    before = {file: file.read_text() for file in files}
    command = (sys.executable, "-m", "tests.slurm.cluster", "start", f"--folder={tmp_path / 'c'}")
    start = subprocess.run(command, capture_output=True, text=True, check=True)
    assert start.stdout == f"export SLURM_CONF={tmp_path}/c/etc/slurm.conf\n"
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode != 0
    assert "is running" in again.stderr

    second = Cluster(tmp_path / "c", nodes=1)
    left = second.processes()
    with second:
        assert not set(left) & set(second.processes())
        detached = "(trap '' TERM HUP; setsid sleep 600 & setsid sleep 600 &); sleep 600"
        Job(second, tmp_path, f"echo begin; {detached}").wait_for_output()
        own = second.processes()
    assert second.processes() == []
    assert not any(Path(f"/proc/{pid}").exists() for pid in (*left, *own))
    assert {file: file.read_text() for file in before} == before


def test_does_not_empty_a_foreign_folder(tmp_path):
    (tmp_path / "thesis.tex").write_text("ten years")
    with pytest.raises(RuntimeError, match="not the folder of a cluster"):
        Cluster(tmp_path).start()
    assert (tmp_path / "thesis.tex").read_text() == "ten years"

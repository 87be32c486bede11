"""The test cluster itself: it leaves nothing, and is reached from this machine alone."""

from contextlib import suppress
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster
from tests.slurm.machine import link_of
from tests.slurm.system import wait_until


def submitted(cluster: Cluster, folder: Path, script: str, *options: str) -> str:
    """A batch job whose output survives its requeues, once it has written its first line."""
    fixed = ("--parsable", f"--output={folder}/%j.txt", "--open-mode=append")
    job = cluster.run("sbatch", *fixed, *options, "--wrap", script).strip()
    wait_until(lambda: output(folder, job) != [], 120, f"job {job} writes its first line")
    return job


def output(folder: Path, job: str) -> list[str]:
    file = folder / f"{job}.txt"
    return file.read_text().splitlines() if file.exists() else []


def test_host_names_and_gpus_of_a_step(cluster):
    gpus = ("sh", "-c", "echo $(hostname) $CUDA_VISIBLE_DEVICES")
    step = cluster.run("srun", "--nodes=2", "--gres=gpu:2", *gpus)
    assert sorted(step.splitlines()) == ["node1 0,1", "node2 0,1"]


def test_listens_on_loopback_only(cluster, tmp_path):
    submitted(cluster, tmp_path, "srun sh -c 'echo begin; sleep 20'", "--nodes=2")
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
    Cluster(tmp_path / "c", nodes=1).start()
    second = Cluster(tmp_path / "c", nodes=1)
    left = second.processes()
    with second:
        assert not set(left) & set(second.processes())
        detached = "(trap '' TERM HUP; setsid sleep 600 & setsid sleep 600 &); sleep 600"
        submitted(second, tmp_path, f"echo begin; {detached}")
        own = second.processes()
    assert second.processes() == []
    assert not any(Path(f"/proc/{pid}").exists() for pid in (*left, *own))
    assert {file: file.read_text() for file in before} == before


def test_does_not_empty_a_foreign_folder(tmp_path):
    (tmp_path / "thesis.tex").write_text("ten years")
    with pytest.raises(RuntimeError, match="not the folder of a cluster"):
        Cluster(tmp_path).start()
    assert (tmp_path / "thesis.tex").read_text() == "ten years"

"""A real Slurm cluster on this machine: a head and some nodes, each a separate machine.

It needs root on Debian; tests/slurm/install.sh installs its dependencies.

Each cluster has a folder, its own ports and, on its machines only, its own /etc/slurm
and /etc/hosts. This machine is not changed, so several clusters can run next to each other. On this
machine, commands find their cluster only by SLURM_CONF. `stop` keeps the folder for its logs.

In tests:

    with Cluster(folder) as cluster:
        job = cluster.run("sbatch", "--parsable", "--wrap", "hostname").strip()
        cluster.kill_node("node1")
"""

import csv
import os
import re
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

from tests.slurm.configuration import HEAD, write_configuration
from tests.slurm.machine import Machine, machines_of
from tests.slurm.system import call, wait_until

PROGRAMS = ("munged", "slurmctld", "slurmd", "slurmdbd", "sbatch", "mariadbd", "mariadb-install-db")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def missing() -> str | None:
    """One line that says why no cluster can be started here, or None."""
    if os.geteuid() != 0:
        return "a Slurm cluster needs root"
    if absent := [program for program in PROGRAMS if not shutil.which(program, path=PATH)]:
        return f"a Slurm cluster needs {', '.join(absent)}: see tests/slurm/install.sh"
    namespaces = ("unshare", "--pid", "--uts", "--mount-proc", "--fork", "true")
    if subprocess.run(namespaces, capture_output=True).returncode != 0:
        return "a Slurm cluster needs namespaces and mounts, which this container forbids"
    return None


class Cluster:
    """The cluster in `folder`, running or not; any process can make an object for it.

    Partitions, from tests/slurm/configuration.py: normal (the default), high, low (preempted by the
    others after 10 s of grace), low-now (preempted without) and short (one minute).
    """

    def __init__(self, folder: str | Path, nodes: int = 4) -> None:
        self.folder = Path(folder).absolute()
        self.nodes = [f"node{number}" for number in range(1, nodes + 1)]

    def __enter__(self) -> "Cluster":
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    # The whole.

    def start(self) -> None:
        """Start all machines and wait until every node is idle: some seconds.

        What an earlier cluster in this folder left behind, running or not, is removed first.
        """
        self.stop()
        if self.folder.exists():
            if any(self.folder.iterdir()) and not (self.folder / "etc" / "slurm.conf").exists():
                raise RuntimeError(f"{self.folder} is not the folder of a cluster, and not empty")
            shutil.rmtree(self.folder)
        write_configuration(self.folder, self.nodes)
        try:
            head = self._machine(HEAD)
            self._boot(head)
            start_munge(head, self.folder)
            start_accounting(head, self.folder)
            self.start_controller()
            for name in self.nodes:
                self._start_node(name)
            self._wait_until_idle()
        except BaseException as error:
            error.add_note(f"logs: {self.folder}/log")
            self.stop()
            raise

    def stop(self) -> None:
        """Switch every machine off; no process of the cluster is left."""
        for name in machines_of(self.folder):
            self._machine(name).power_off()

    def processes(self, name: str) -> list[int]:
        """Ids of all processes of the machine `name` ("head", "node1", …)."""
        return self._machine(name).processes()

    def reset(self) -> None:
        """Bring back to health what a test has broken, and cancel what it has left in the queue."""
        if not self._machine(HEAD).processes("slurmctld"):
            self.start_controller()
        for name in self.nodes:
            if not self._machine(name).processes("slurmd"):
                self.start_node(name)
        for name, state in self.node_states().items():
            if state.startswith(("down", "drain")):
                with suppress(RuntimeError):  # it has come back by itself
                    self.run("scontrol", "update", f"NodeName={name}", "State=RESUME")
        self.run("scancel", "--user=root")
        wait_until(lambda: not self.queue(), 180, "the queue is empty")
        self._wait_until_idle()

    # Nodes.

    def kill_node(self, name: str) -> None:
        """Power loss: slurmd and every process of every job on the node die at once."""
        self._machine(name).power_off()

    def kill_slurmd(self, name: str) -> None:
        """Kill the node's slurmd alone; the jobs on the node run on."""
        self._machine(name).kill("slurmd", signal.SIGKILL)

    def start_node(self, name: str) -> None:
        """Boot the node, or only start its slurmd where that alone is dead; wait until it is up."""
        self._start_node(name)
        up = ("idle", "mixed", "allocated")
        wait_until(lambda: self.node_states()[name] in up, 180, f"{name} is up")

    def node_states(self) -> dict[str, str]:
        """`sinfo`'s state of each node; an asterisk after it says that the node does not answer."""
        table = read_table(self.run("sinfo", "--Node", "--partition=normal", "--format=%N|%T"))
        return {row["nodelist"]: row["state"] for row in table}

    def host_names(self, listed: str) -> list[str]:
        """The nodes that Slurm calls `listed`, such as node[2-3]."""
        return self.run("scontrol", "show", "hostnames", listed).split()

    # The controller.

    def stop_controller(self) -> None:
        """Stop slurmctld; nodes and jobs run on."""
        self._machine(HEAD).kill("slurmctld", signal.SIGTERM)

    def start_controller(self) -> None:
        """Start slurmctld, which knows the jobs it knew before, and wait until it answers."""
        head = self._machine(HEAD)
        head.run("slurmctld")
        wait_until(lambda: succeeds(head, "scontrol", "ping"), 180, "slurmctld answers")

    # Commands and what they say.

    @property
    def environment(self) -> dict[str, str]:
        """The variables that make sbatch, srun, sacct … speak with this cluster."""
        return {"SLURM_CONF": str(self.folder / "etc" / "slurm.conf")}

    def run(self, *command: str) -> str:
        """Run `command` on this machine, as on a login node, and return its output."""
        return call(command, os.environ | self.environment)

    def queue(self, *options: str) -> list[dict[str, str]]:
        """Waiting, running and ending jobs as `squeue` lists them; `options` narrow or widen it.

        Keys: jobid, name, partition, state, nodes, nodelist, reason.
        """
        columns = "%i|%j|%P|%T|%D|%N|%r"
        return read_table(self.run("squeue", "--array", f"--format={columns}", *options))

    def job(self, job: str | int) -> dict[str, str]:
        """What `scontrol show job` says: JobState, Restarts, PreemptTime, Reason, BatchHost …"""
        return read_fields(self.run("scontrol", "show", "job", "--oneliner", str(job)))

    def accounting(self, *options: str) -> list[dict[str, str]]:
        """Each life of each job as `sacct` knows it: a job requeued once has two rows.

        `options` such as "--jobs=7" narrow it. Keys: jobid, jobname, partition, state, exitcode,
        restarts, nodelist, start, end, alloctres, workdir.
        """
        columns = (
            "JobID,JobName,Partition,State,ExitCode,Restarts,NodeList,Start,End,AllocTRES,WorkDir"
        )
        fixed = ("--allocations", "--duplicates", "--parsable2", f"--format={columns}")
        return read_table(self.run("sacct", "--starttime=now-1days", *fixed, *options))

    # How it is made.

    def _machine(self, name: str) -> Machine:
        environment = {
            "PATH": PATH,
            "LANG": "C.UTF-8",
            # How slurmdbd finds its database: no port that others could connect to.
            "MYSQL_UNIX_PORT": str(self.folder / "run" / "mariadb.sock"),
            **self.environment,
        }
        return Machine(self.folder / name, environment)

    def _boot(self, machine: Machine) -> None:
        # Snakemake's jobs forget SLURM_CONF and look for the configuration at Slurm's own place.
        etc = self.folder / "etc"
        machine.boot({etc: Path("/etc/slurm"), etc / "hosts": Path("/etc/hosts")})

    def _start_node(self, name: str) -> None:
        node = self._machine(name)
        if node.is_on():
            node.run("slurmd", "-N", name)
        else:
            self._boot(node)
            # -b: the controller learns of the reboot and gives up what ran there before.
            node.run("slurmd", "-b", "-N", name)

    def _wait_until_idle(self) -> None:
        wait_until(lambda: set(self.node_states().values()) == {"idle"}, 180, "all nodes are idle")


def start_munge(head: Machine, folder: Path) -> None:
    """Start what signs and checks the messages of the cluster in `folder`."""
    head.run(
        "munged",
        "--force",  # The folder may be in one that only root can enter.
        f"--key-file={folder}/etc/munge.key",
        f"--socket={folder}/run/munge.sock",
        f"--pid-file={folder}/run/munged.pid",
        f"--seed-file={folder}/run/munged.seed",
        f"--log-file={folder}/log/munged.log",
    )


def start_accounting(head: Machine, folder: Path) -> None:
    """Start slurmdbd on an empty database and make the cluster known to it."""
    database = ("--no-defaults", "--user=root", f"--datadir={folder}/database")
    head.run("mariadb-install-db", *database, "--skip-test-db")
    head.start(
        "mariadbd",
        *database,
        f"--socket={folder}/run/mariadb.sock",
        f"--pid-file={folder}/run/mariadbd.pid",
        "--skip-networking",
        "--skip-grant-tables",
        "--innodb-buffer-pool-size=64M",
        "--innodb-log-file-size=8M",
        "--innodb-flush-log-at-trx-commit=0",
        "--innodb-lock-wait-timeout=900",
        log=folder / "log" / "mariadbd.log",
    )
    # slurmdbd cannot make the database itself: it dies of "Number of columns in result".
    create = ("mariadb", "--no-defaults", "--execute=create database accounting")
    wait_until(lambda: succeeds(head, *create), 180, "the database answers")
    head.run("slurmdbd")
    add = ("sacctmgr", "--immediate", "add", "cluster", "test")
    wait_until(lambda: succeeds(head, *add), 180, "slurmdbd answers")


def succeeds(machine: Machine, *command: str) -> bool:
    """Whether `command` exits with 0 on `machine`."""
    with suppress(RuntimeError):
        machine.run(*command)
        return True
    return False


def read_table(text: str) -> list[dict[str, str]]:
    """The rows of a table with a header and `|` between columns; names of columns in lower case."""
    header, *lines = text.splitlines()
    rows = csv.DictReader(lines, fieldnames=header.lower().split("|"), delimiter="|")
    return list(rows)


def read_fields(text: str) -> dict[str, str]:
    """The fields of `scontrol show … --oneliner`; a value with blanks is cut at the first."""
    return dict(re.findall(r"(\S+?)=(\S*)", text))

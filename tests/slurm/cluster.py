"""A real Slurm cluster on this machine, with a head and several nodes, each on a separate virtual
machine of namespaces.

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
    """Return the reason why no cluster can be started here, in one line; None if one can be
    started."""
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
        """Start all machines and wait until every node is idle, which takes some seconds.

        First remove all remains of an earlier cluster in this folder, running or not.
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
        """Switch off every machine; no process of the cluster remains."""
        for name in machines_of(self.folder):
            self._machine(name).power_off()

    def processes(self, name: str) -> list[int]:
        """Return the IDs of all processes of the machine `name` ("head", "node1", …)."""
        return self._machine(name).processes()

    def reset(self) -> None:
        """Repair everything that a test has broken, and cancel its jobs that are still in the
        queue."""
        if not self._machine(HEAD).processes("slurmctld"):
            self.start_controller()
        for name in self.nodes:
            if not self._machine(name).processes("slurmd"):
                self.start_node(name)
        for name, state in self.node_states().items():
            if state.startswith(("down", "drain")):
                with suppress(RuntimeError):  # the node has recovered by itself
                    self.run("scontrol", "update", f"NodeName={name}", "State=RESUME")
        self.run("scancel", "--user=root")
        wait_until(lambda: not self.queue(), 180, "the queue is empty")
        self._wait_until_idle()

    # Nodes.

    def kill_node(self, name: str) -> None:
        """Power loss: slurmd and every process of every job on the node die at once."""
        self._machine(name).power_off()

    def kill_slurmd(self, name: str) -> None:
        """Kill only the node's slurmd; the jobs on the node continue."""
        self._machine(name).kill("slurmd", signal.SIGKILL)

    def start_node(self, name: str) -> None:
        """Boot the node, or start only slurmd if the node is up; wait until it answers."""
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
        """Stop slurmctld; nodes and jobs continue."""
        self._machine(HEAD).kill("slurmctld", signal.SIGTERM)

    def start_controller(self) -> None:
        """Start slurmctld, which still knows its jobs, and wait until it answers."""
        head = self._machine(HEAD)
        head.run("slurmctld")
        wait_until(lambda: succeeds(head, "scontrol", "ping"), 180, "slurmctld answers")

    # Commands and their output.

    @property
    def environment(self) -> dict[str, str]:
        """The variables that make sbatch, srun, sacct … speak with this cluster."""
        return {"SLURM_CONF": str(self.folder / "etc" / "slurm.conf")}

    def run(self, *command: str) -> str:
        """Run `command` on this machine, as on a login node, and return its output."""
        return call(command, os.environ | self.environment)

    def queue(self, *options: str) -> list[dict[str, str]]:
        """Return the jobs that `squeue` lists: pending, running and completing jobs, selected by
        `options`.

        Keys: jobid, name, partition, state, nodes, nodelist, reason.
        """
        columns = "%i|%j|%P|%T|%D|%N|%r"
        return read_table(self.run("squeue", "--array", f"--format={columns}", *options))

    def job(self, job: str | int) -> dict[str, str]:
        """Return the output of `scontrol show job`: JobState, Restarts, PreemptTime, Reason,
        BatchHost, …"""
        return read_fields(self.run("scontrol", "show", "job", "--oneliner", str(job)))

    def accounting(self, *options: str) -> list[dict[str, str]]:
        """Return the rows of `sacct`; a job that was requeued once has two rows.

        Options such as "--jobs=7" select jobs. Keys: jobid, jobname, partition, state, exitcode,
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
            # The path of the database's socket, because other users could connect to a port.
            "MYSQL_UNIX_PORT": str(self.folder / "run" / "mariadb.sock"),
            **self.environment,
        }
        return Machine(self.folder / name, environment)

    def _boot(self, machine: Machine) -> None:
        # Snakemake's jobs unset SLURM_CONF, and then Slurm reads its default configuration file.
        etc = self.folder / "etc"
        machine.boot({etc: Path("/etc/slurm"), etc / "hosts": Path("/etc/hosts")})

    def _start_node(self, name: str) -> None:
        node = self._machine(name)
        if node.is_on():
            node.run("slurmd", "-N", name)
        else:
            self._boot(node)
            # With -b, the controller is informed of the reboot and gives up the jobs of this node.
            node.run("slurmd", "-b", "-N", name)

    def _wait_until_idle(self) -> None:
        wait_until(lambda: set(self.node_states().values()) == {"idle"}, 180, "all nodes are idle")


def start_munge(head: Machine, folder: Path) -> None:
    """Start munged, which signs and checks the messages of the cluster in `folder`."""
    head.run(
        "munged",
        "--force",  # The parent of the folder may be accessible only to root.
        f"--key-file={folder}/etc/munge.key",
        f"--socket={folder}/run/munge.sock",
        f"--pid-file={folder}/run/munged.pid",
        f"--seed-file={folder}/run/munged.seed",
        f"--log-file={folder}/log/munged.log",
    )


def start_accounting(head: Machine, folder: Path) -> None:
    """Start slurmdbd with an empty database, and register the cluster."""
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
    # slurmdbd cannot create the database itself: it would fail with "Number of columns in result".
    create = ("mariadb", "--no-defaults", "--execute=create database accounting")
    wait_until(lambda: succeeds(head, *create), 180, "the database answers")
    head.run("slurmdbd")
    add = ("sacctmgr", "--immediate", "add", "cluster", "test")
    wait_until(lambda: succeeds(head, *add), 180, "slurmdbd answers")


def succeeds(machine: Machine, *command: str) -> bool:
    """Return True if `command` exits with 0 on `machine`."""
    with suppress(RuntimeError):
        machine.run(*command)
        return True
    return False


def read_table(text: str) -> list[dict[str, str]]:
    """Return the rows of a table with a header and columns separated by `|`, keyed by lower-case
    column names."""
    header, *lines = text.splitlines()
    rows = csv.DictReader(lines, fieldnames=header.lower().split("|"), delimiter="|")
    return list(rows)


def read_fields(text: str) -> dict[str, str]:
    """Return the fields of `scontrol show … --oneliner`; a value with blanks is truncated at the
    first blank."""
    return dict(re.findall(r"(\S+?)=(\S*)", text))

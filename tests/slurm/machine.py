"""One machine of the cluster: a set of Linux namespaces for all its processes.

A machine has its own process table, host name and mounts, and shares files and network with this
machine. Its process 1 does nothing. When it is killed, the kernel kills every process of the
machine, even a forked or detached one, or one that ignores signals. So one signal simulates power
loss, and no process can outlive its machine. The running machines are read only from the process
table, which is correct even after a crash.

    machine = Machine(folder / "node1", environment={"PATH": "/usr/sbin:/usr/bin"})
    machine.boot({folder / "hosts": Path("/etc/hosts")})
    machine.run("slurmd", "-N", "node1")
    machine.power_off()
"""

import os
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tests.slurm.system import call, wait_until

MARK = "MACHINE="
"""Before a machine's path in the arguments of its keeper."""


class Machine:
    """The machine that is called by the last part of `path`; no two have the same path.

    Commands run on it with exactly the variables of `environment`.
    """

    def __init__(self, path: Path, environment: Mapping[str, str]) -> None:
        self.path = path
        self.name = path.name
        self._environment = dict(environment)

    def boot(self, mounts: Mapping[Path, Path]) -> None:
        """Switch the machine on; it sees each key of `mounts` at the place that is the value."""
        namespaces = ("unshare", "--pid", "--uts", "--mount", "--fork", "--kill-child")
        # Ignoring SIGCHLD lets the kernel clear away what the daemons orphan. A shell as process 1
        # would leave zombies behind, which Slurm takes for running processes.
        process_1 = ("env", "--ignore-signal=CHLD", f"{MARK}{self.path}", "sleep", "infinity")
        keeper = os.posix_spawnp(
            namespaces[0],
            (*namespaces, *process_1),
            self._environment,
            file_actions=[(os.POSIX_SPAWN_OPEN, n, "/dev/null", os.O_RDWR, 0) for n in range(3)],
            setsid=True,
        )
        wait_until(lambda: _inside(keeper) not in ("", _HERE), 60, f"{self.name} is switched on")
        self.run("mount", "-t", "proc", "proc", "/proc")
        self.run("hostname", self.name)
        for source, target in mounts.items():
            self.run("mount", "--bind", str(source), str(target))

    def is_on(self) -> bool:
        return str(self.path) in _keepers()

    def run(self, *command: str) -> str:
        """Run `command` on the machine and return its output; a daemon that it leaves runs on."""
        return call((*self._enter(), *command), self._environment)

    def start(self, *command: str, log: Path) -> None:
        """Start a program that does not go to the background by itself; `log` takes its output."""
        with log.open("w") as stream:
            subprocess.run(
                (*self._enter(), "setsid", "--fork", *command),
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                check=True,
            )

    def processes(self, program: str | None = None) -> list[int]:
        """Ids, as seen from outside, of all its processes, or of those that run `program`."""
        keeper = _keepers().get(str(self.path))
        found = [] if keeper is None else _processes_in(_inside(keeper))
        return [pid for pid in found if program in (None, read_of(pid, "comm").strip())]

    def kill(self, program: str, number: signal.Signals) -> None:
        """Send signal `number` to the processes that run `program` and wait until they are gone."""
        for pid in self.processes(program):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        wait_until(lambda: not self.processes(program), 120, f"{program} on {self.name} ends")

    def power_off(self) -> None:
        """Kill every process of the machine at once, as a power loss does."""
        keeper = _keepers().get(str(self.path))
        if keeper is None:
            return
        namespace = _inside(keeper)
        # Not the keeper itself: it clears away what remains of its child.
        for pid in _children(keeper, namespace):
            os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):  # It is another process's child.
            os.waitpid(keeper, 0)
        wait_until(lambda: not self.is_on(), 120, f"{self.name} is switched off")
        wait_until(lambda: not _processes_in(namespace), 120, f"all processes of {self.name} end")

    def _enter(self) -> tuple[str, ...]:
        """What comes before a command that is to run on the machine."""
        keeper = _keepers().get(str(self.path))
        if keeper is None:
            raise RuntimeError(f"{self.name} is switched off")
        namespaces = f"/proc/{keeper}/ns"
        return (
            "nsenter",
            f"--uts={namespaces}/uts",
            f"--mount={namespaces}/mnt",
            f"--pid={namespaces}/pid_for_children",
        )


def machines_of(folder: Path) -> list[str]:
    """The names of the machines with a path in `folder` that are on."""
    return [Path(path).name for path in _keepers() if Path(path).parent == folder]


def _keepers() -> dict[str, int]:
    """The keeper of each machine that is on, by the machine's path.

    It is the process outside whose only child is process 1, and whose death is its death.
    """
    found = {}
    for pid in _processes_in(_HERE):
        command, *arguments = read_of(pid, "cmdline").split("\0")
        if command == "unshare":
            paths = [word.removeprefix(MARK) for word in arguments if word.startswith(MARK)]
            found |= dict.fromkeys(paths, pid)
    return found


def _processes_in(namespace: str) -> list[int]:
    every = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [pid for pid in every if namespace and link_of(pid, "ns/pid") == namespace]


def _children(keeper: int, namespace: str) -> list[int]:
    """Process 1 of the machine, as seen from outside; nothing when it has just ended."""
    parent = f"PPid:\t{keeper}"
    return [p for p in _processes_in(namespace) if parent in read_of(p, "status").splitlines()]


def _inside(keeper: int) -> str:
    """The process table of the machine; empty until it exists."""
    return link_of(keeper, "ns/pid_for_children")


def link_of(pid: int | str, name: str) -> str:
    """Where a link in /proc/PID points to; empty for a process that has ended."""
    try:
        return str(Path(f"/proc/{pid}/{name}").readlink())
    except OSError:
        return ""


def read_of(pid: int, name: str) -> str:
    """A file in /proc/PID; empty for a process that has ended."""
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace")
    except OSError:
        return ""


_HERE = link_of("self", "ns/pid")

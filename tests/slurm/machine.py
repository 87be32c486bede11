"""One machine of the cluster: a set of Linux namespaces for all its processes.

A machine has its own process table, host name and mounts, and shares files and network with this
machine. Process 1 of the machine does nothing. When it is killed, the kernel kills every process of
the machine, even a forked or detached one, or one that ignores signals. So one signal simulates
power loss, and no process can outlive its machine. The running machines are read only from the
process table, which is correct even after a crash.

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
"""The argument before the machine's path in the command line of its keeper process."""


class Machine:
    """A machine whose name is the last part of `path`; each machine has a different path.

    Commands run on the machine with exactly the variables of `environment`.
    """

    def __init__(self, path: Path, environment: Mapping[str, str]) -> None:
        self.path = path
        self.name = path.name
        self._environment = dict(environment)

    def boot(self, mounts: Mapping[Path, Path]) -> None:
        """Switch on the machine, and mount each key of `mounts` at the path that is its value."""
        namespaces = ("unshare", "--pid", "--uts", "--mount", "--fork", "--kill-child")
        # Ignore SIGCHLD, so that the kernel removes orphaned processes of the daemons. A shell as
        # process 1 would leave zombies behind, which Slurm takes for running processes.
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
        """Run `command` on the machine and return its output; a daemon that it starts continues."""
        return call((*self._enter(), *command), self._environment)

    def start(self, *command: str, log: Path) -> None:
        """Start a program in the background, and write its output to `log`."""
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
        """Return the IDs, as seen from outside, of all its processes, or of the processes that run
        `program`."""
        keeper = _keepers().get(str(self.path))
        found = [] if keeper is None else _processes_in(_inside(keeper))
        return [pid for pid in found if program in (None, read_of(pid, "comm").strip())]

    def kill(self, program: str, number: signal.Signals) -> None:
        """Send signal `number` to the processes that run `program`, and wait for their end."""
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
        # Do not kill the keeper itself, because it removes the remains of its child.
        for pid in _children(keeper, namespace):
            os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):  # The keeper is the child of another process.
            os.waitpid(keeper, 0)
        wait_until(lambda: not self.is_on(), 120, f"{self.name} is switched off")
        wait_until(lambda: not _processes_in(namespace), 120, f"all processes of {self.name} end")

    def _enter(self) -> tuple[str, ...]:
        """Return the words that precede a command to run it on the machine."""
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
    """Return the names of the running machines with a path in `folder`."""
    return [Path(path).name for path in _keepers() if Path(path).parent == folder]


def _keepers() -> dict[str, int]:
    """Return the keeper of each running machine, keyed by the machine's path.

    The keeper is a process outside of the machine. Its only child is process 1, which dies with it.
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
    """Return the outside ID of process 1 of the machine; empty if it has just ended."""
    parent = f"PPid:\t{keeper}"
    return [p for p in _processes_in(namespace) if parent in read_of(p, "status").splitlines()]


def _inside(keeper: int) -> str:
    """Return the process table of the machine; empty until it exists."""
    return link_of(keeper, "ns/pid_for_children")


def link_of(pid: int | str, name: str) -> str:
    """Return the target of a link in /proc/PID; empty if the process has ended."""
    try:
        return str(Path(f"/proc/{pid}/{name}").readlink())
    except OSError:
        return ""


def read_of(pid: int, name: str) -> str:
    """Return a file in /proc/PID; empty if the process has ended."""
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace")
    except OSError:
        return ""


_HERE = link_of("self", "ns/pid")

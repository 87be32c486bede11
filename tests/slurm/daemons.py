"""The daemons on the head next to slurmctld: munge, and accounting with its database."""

from contextlib import suppress
from pathlib import Path

from tests.slurm.machine import Machine
from tests.slurm.system import wait_until


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

"""The end of a local job whose Snakemake has ended.

Snakemake names the folder of its run in the variable PSLD_RUN (`psld.cluster.head`), and holds the
kernel lock `alive` in it. Kernel locks end with their holders, even after kill -9.
"""

import fcntl
import os
import signal
import sys
import threading
import time
from pathlib import Path

RUN = "PSLD_RUN"
"""The environment variable with the folder of the run that started this process."""
RECORDS = "PSLD_RECORDS"
"""The environment variable with the digests of the records that Snakemake planned for a job in
Slurm."""
GRACE_SECONDS = 60
"""Time between SIGTERM, at which a training saves a checkpoint, and SIGKILL."""


def end_with_snakemake(command: str) -> None:
    """Make this process end when the Snakemake that has started it ends; return at once.

    It ends as on SIGTERM, so a training saves a checkpoint. `psld launch` leaves its job in Slurm
    if Snakemake was killed, and cancels it if Snakemake was interrupted.
    """
    run = os.environ.get(RUN)
    if run is None:
        return
    try:
        alive = os.open(f"{run}/alive", os.O_RDONLY)
    except FileNotFoundError:
        sys.exit("error: the Snakemake that started this job has ended, and another one runs")
    threading.Thread(target=_end, args=(run, alive, command == "launch"), daemon=True).start()


def _end(run: str, alive: int, is_launcher: bool) -> None:
    fcntl.flock(alive, fcntl.LOCK_SH)  # waits for the end of Snakemake
    try:
        was_interrupted = b'"interrupted"' in Path(run, "run.json").read_bytes()
    except FileNotFoundError:  # The next run has cleared it away, after a kill.
        was_interrupted = False
    if is_launcher and not was_interrupted:
        os._exit(1)
    print("the Snakemake that started this job has ended; so this job ends", file=sys.stderr)
    os.kill(os.getpid(), signal.SIGTERM)
    if not was_interrupted:
        time.sleep(GRACE_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)

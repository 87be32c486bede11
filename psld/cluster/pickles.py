"""submitit's pickles, which run code: its jobs, and who waits for them, read only the user's own.

submitit names a job's pickle by its path. Whoever may write to a folder above it, such as the runs
of a group, can put another folder there. So the open folder is checked, and not the name.

This is the one file that depends on how submitit reads pickles and starts a job.
"""

import os
import pickle
import shlex
import sys
from pathlib import Path
from typing import Any, cast

from submitit import LocalExecutor, SlurmExecutor
from submitit.core import utils
from submitit.core.submission import process_job

from psld.utils.errors import UserError


def read_own_pickles_only() -> None:
    """Make submitit read pickles with `load_own`, in this process and in the jobs it submits."""
    utils.pickle_load = load_own
    words = [sys.executable, "-u", "-m", "psld.cluster.pickles"]
    command = property(lambda executor: shlex.join([*words, str(executor.folder)]))
    for executor in (LocalExecutor, SlurmExecutor):
        cast(Any, executor)._submitit_command_str = command


def load_own(path: str | Path) -> Any:
    """Unpickle a file that no other user can have written.

    The file is the user's, and so is its folder, or the one above it, which nobody else may enter.
    Raises UserError if this is not so.
    """
    folder = os.open(Path(path).parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        file = os.open(Path(path).name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder)
        with os.fdopen(file, "rb") as stream:
            places = [os.stat(place, dir_fd=folder) for place in (".", "..")]
            is_closed = any(_is_own(place) and not place.st_mode & 0o077 for place in places)
            if not (is_closed and _is_own(os.fstat(file))):
                raise UserError(
                    f"{path}: other users may have written it, and it would be run; move its "
                    "folder away and start again"
                )
            return pickle.load(stream)
    finally:
        os.close(folder)


def _is_own(found: os.stat_result) -> bool:
    return found.st_uid == os.geteuid()


if __name__ == "__main__":
    read_own_pickles_only()
    try:
        process_job(sys.argv[1])
    except UserError as error:
        sys.exit(f"error: {error}")

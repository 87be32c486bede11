"""The errors that are reported in one line, and the text of that line.

Errors of Hydra, OmegaConf and submitit are recognized by name: jobs do not import these.
"""

import errno
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

from psld.config.locations import config_file, config_names
from psld.utils.errors import (
    DISK_ERRORS,
    MACHINE_ERRORS,
    PSLDError,
    is_out_of_memory,
    missing_extra,
    one_line,
)

WRONG_PATHS = PermissionError | NotADirectoryError | IsADirectoryError | FileNotFoundError
WRONG_PLACES = {errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP}


@contextmanager
def in_one_line() -> Iterator[None]:
    """Print an error that needs no traceback, and exit with its code."""
    try:
        yield
    except Exception as error:
        known = explained(error)
        if known is None:
            raise
        exit_code, line = known
        print(f"error: {line}", file=sys.stderr)
        sys.exit(exit_code)


def explained(error: Exception) -> tuple[int, str] | None:
    """Return the exit code and the line of an error; None if it needs a traceback."""
    text = text_of(error)
    if isinstance(error, PSLDError):
        return error.exit_code, text
    if line := missing_extra(error):
        return 2, line
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, WRONG_PATHS) or kinds & {"HydraException", "OmegaConfBaseException"}:
        return 2, text
    if isinstance(error, FileExistsError):
        return 2, f"{error.filename}: is a file; output and runs are folders"
    if isinstance(error, OSError) and error.errno in WRONG_PLACES:
        return 2, text
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        place = error.filename or "the disk"
        return 1, f"{place}: cannot be written ({error.strerror}); free some space and try again"
    if isinstance(error, UnicodeEncodeError):
        near = error.object[max(error.start - 40, 0) : error.end + 40]
        return 2, f"{near!r}: a name or text that is not Unicode; rename the file"
    # submitit's error without sbatch
    if isinstance(error, RuntimeError) and "on a slurm cluster" in text:
        return 2, "hydra/launcher: there is no sbatch here; use hydra/launcher=submitit_local"
    if is_out_of_memory(error):
        first = text.split(". ")[0]
        what = first if "out of memory" in first else "out of memory"
        advice = "lower training.micro_batch, or batch_size when sampling, or give it more memory"
        return 1, f"{what}: {advice}"
    if isinstance(error, OSError) and error.errno in MACHINE_ERRORS:
        return 1, f"{text}; this machine or its file system failed, try again"
    if kinds & {"UncompletedJobError", "FailedJobError"}:  # submitit's
        # Slurm refused, killed or canceled the job. Leave out the end of its log.
        what = text.partition(") Error stream")[0].partition(") No ")[0]
        return 1, f"{what}); the sweep's other jobs go on" if what != text else text
    return None


def text_of(error: Exception) -> str:
    """Return an error as one line, without Hydra's advice that does not apply here."""
    if line := missing_extra(error):
        return line
    text = one_line(str(error) or str(error.__cause__ or ""))
    if type(error).__name__ == "OverrideParseException":
        word = one_line(error.override)
        key, _, value = word.partition("=")
        bare = value.strip("'\"")
        if not re.search(r"[^\w.-]", value, re.ASCII):
            return f"{word}: not a setting KEY=VALUE"
        return f"{word}: cannot be read; put a text in quotes, e.g. '{key}=\"{bare}\"'"
    if choice := re.search(r"Could not find '(\S+)/(\S+)' Available options in '\S+': (.*)", text):
        group, name, rest = choice.groups()
        known = ", ".join(rest.partition(" Config search path")[0].split())
        return f"{group}={name}: no such {group}; there are: {known}"
    unknown = re.search(r"Could not override '(\S+)'\. (?:No match.*\. )?To append .*", text)
    if unknown is None:
        text = text.partition(" To append to your default list ")[0]
        text = text.removeprefix("ValueError raised while resolving interpolation: ")
        return re.sub(r" full_key: (\S+) object_type=\w+$", r" (\1)", text)
    known = f"no setting is called {unknown[1]}{_meant(unknown[1], error)}"
    return f"{text[: unknown.start()]}{known}; the command's --help lists them"


def _meant(key: str, error: Exception) -> str:
    """Return a question about the setting of the config whose name is most like a wrong key's."""
    if error.__cause__ is None:  # The key is a group of configs, which this command does not use.
        return ""
    from omegaconf import OmegaConf

    config = error.__cause__.parent_node._get_root()
    names = [name for name, _ in entries_of(OmegaConf.to_container(config))]
    same = [name for name in names if name.endswith(f".{key}")]
    if not same and (elsewhere := _with_another_config(key.rpartition(".")[2], names)):
        return elsewhere
    found = same or get_close_matches(key, names, cutoff=0.8)
    return f" (is {found[0]} meant?)" if found else ""


def _with_another_config(name: str, names: list[str]) -> str:
    """Say which guidance or sampler of the command has a setting, if another one is chosen."""
    line = re.compile(rf"^{re.escape(name)}:", re.MULTILINE)
    for group, place in {"guidance": "sampler.guidance", "sampler": "sampler"}.items():
        files = {each: config_file(group, each).read_text("utf-8") for each in config_names(group)}
        found = [each for each, text in files.items() if place in names and line.search(text)]
        if found:
            word = group if group == place else f"{group}@{place}"
            return f"; {place}.{name} is one with {word}={' or '.join(found)}"
    return ""


def entries_of(content: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and the value of each entry of a config, groups included."""
    for key, value in content.items():
        yield f"{prefix}{key}", value
        if isinstance(value, dict):
            yield from entries_of(value, f"{prefix}{key}.")

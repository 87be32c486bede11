"""The checks that all faults share: nothing lost, nothing half, and a second run repairs all."""

from pathlib import Path

from tests import commands
from tests.commands import Finished, files_below, succeeded
from tests.faults.stages import RECORD, Stage, without_durations

OLDER = b"made before"
"""The content of outputs from before the fault."""


def begin_again(project: Path, stage: Stage) -> dict[str, bytes]:
    """Give the stage everything to do, over older outputs, and return all files of the project."""
    names = stage.made(project)
    stage.forget(project)
    for name in names:
        (project / name).write_bytes(OLDER)
    return files_below(project)


def refused(finished: Finished, exit_code: int, *names: str) -> None:
    """Check the exit code, and the one line, which has to name one of these files.

    Some commands name the file before that line, in the list of what they do.
    """
    said = finished.stdout + commands.refused(finished, exit_code)
    assert any(name in said for name in names), said


def check_nothing_lost(
    project: Path, stage: Stage, before: dict[str, bytes], finished: Path
) -> None:
    """Check that all other files are as before, and each output is older or whole.

    `finished` is a project in which the stage ran without a fault.
    """
    _check_others(project, stage, before)
    for name, content in stage.made(project).items():
        assert not name.endswith(".partial")
        if content not in (OLDER, before.get(name)):
            whole = without_durations(finished / name)
            assert without_durations(project / name) == whole, name


def check_again(
    project: Path, stage: Stage, before: dict[str, bytes], finished: Path, but: str = ""
) -> None:
    """Check that the same command succeeds now, with the result of a run without a fault.

    Files named `but` may have another content.
    """
    succeeded(stage.run(project))
    result, wanted = stage.result(project), stage.result(finished)
    assert result.keys() == wanted.keys()
    assert not [name for name in result if result[name] != wanted[name] and Path(name).name != but]
    _check_others(project, stage, before)
    assert not list(project.rglob(".*.partial"))


CODE = ".cache/code/"
"""The digest of psld's code, which any command may keep."""


def _check_others(project: Path, stage: Stage, before: dict[str, bytes]) -> None:
    was, there = (
        {
            name: content
            for name, content in files.items()
            if not (stage.owns(name) or name.startswith(CODE))
        }
        for files in (before, files_below(project))
    )
    assert not [name for name, content in there.items() if was.get(name) != content]
    # The evaluation removes the record of shards that do not serve: the workflow makes them again.
    assert was.keys() - there.keys() <= {RECORD}

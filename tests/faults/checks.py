"""The common checks of all faults: nothing is lost or half written, and a second run repairs
everything."""

from pathlib import Path

from tests import commands
from tests.commands import Finished, files_below, succeeded
from tests.faults.stages import RECORD, Stage, without_durations

OLDER = b"made before"
"""The content of outputs that existed before the fault."""


def begin_again(project: Path, stage: Stage) -> dict[str, bytes]:
    """Remove the results of a stage, write older outputs, and return all files of the project."""
    names = stage.made(project)
    stage.forget(project)
    for name in names:
        (project / name).write_bytes(OLDER)
    return files_below(project)


def refused(finished: Finished, exit_code: int, *names: str) -> None:
    """Check the exit code, and that the error line names one of these files.

    Some commands name the file before the error line, in their list of steps.
    """
    said = finished.stdout + commands.refused(finished, exit_code)
    assert any(name in said for name in names), said


def check_nothing_lost(
    project: Path, stage: Stage, before: dict[str, bytes], finished: Path
) -> None:
    """Check that each output is older or complete, and that all other files are unchanged.

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

    Files with the name `but` may have different content.
    """
    succeeded(stage.run(project))
    result, wanted = stage.result(project), stage.result(finished)
    assert result.keys() == wanted.keys()
    assert not [name for name in result if result[name] != wanted[name] and Path(name).name != but]
    _check_others(project, stage, before)
    assert not list(project.rglob(".*.partial"))


CODE = ".cache/code/"
"""The digests of psld's code, which any command may cache."""


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
    # The evaluation removes the record of unusable shards, so that the workflow makes them again.
    assert was.keys() - there.keys() <= {RECORD}

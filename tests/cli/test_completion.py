"""Completion of command lines, asked for as a shell does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import call, refused, succeeded

ASK = """
eval "$(psld -sc install=bash)"
COMP_LINE=$1 COMP_POINT=${#1} COMP_WORDS=($1) COMP_CWORD=$(($(wc -w <<<"$1") - 1))
"$(complete -p psld | sed -E 's/.* -F (\\S+) .*/\\1/')"
echo "${COMPREPLY[*]}"
"""
"""Installs the completion as README says, and does what bash does at TAB."""


def test_bash_completes(tmp_path):
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", ASK, "bash", "psld train process="],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stderr, done.returncode) == ("", 0)
    assert {"process=psld", "process=cld"} <= set(done.stdout.split())


@pytest.fixture
def completed(tmp_path, monkeypatch):
    """What a line can become, in a folder with a network of the user's own."""
    configs = tmp_path / "configs" / "network"
    configs.mkdir(parents=True)
    (configs / "mine.yaml").write_text("defaults: [demo]\n")

    def complete(line: str) -> set[str]:
        monkeypatch.setenv("COMP_LINE", line)
        finished = succeeded(call(tmp_path, "-sc", "query=bash"))
        assert finished.stderr == ""
        return set(finished.stdout.split())

    return complete


def test_commands_groups_settings_and_values(completed):
    assert completed("psld train_") == {"train_guide", "train_extractor"}
    assert {"network=demo", "network=mine"} <= completed("psld train network=")
    assert completed("psld train training.pr") == {"training.precision=", "training.preview_every="}
    assert completed("psld train training.precision=") == {"training.precision=fp32"}
    shown = completed("psld train ")
    assert {"process=", "training.", "name=", "hydra/launcher="} <= shown
    assert not {"sampler=", "grid="} & shown, "groups of other commands"
    assert completed("psld plan list=") == {"list=cells", "list=figures"}


def test_the_words_before_count(completed):
    """A choice brings its settings; what is wrong or swept does no harm."""
    tolerance = "sampler.tolerance="
    assert completed("psld sample sampler=rk45 sampler.to") == {tolerance}
    assert tolerance not in completed("psld sample sampler=em sampler.")
    assert completed("psld train -m nosuch=3 process=psld,c") == {"process=psld,cld"}
    assert completed("psld nosuch x") == completed("psld train a.b=1.5") == set()


def test_names_of_records_and_files(completed, tmp_path):
    assert "cell=demo/" in completed("psld evaluate cell=d")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.h5").touch()
    assert completed("psld train data=data/m") == {"data=data/mine.h5"}


def test_another_shell_is_refused(tmp_path):
    refused(call(tmp_path, "-sc", "install=tcsh"), 2, "bash, zsh or fish")

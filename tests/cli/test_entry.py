"""The common behavior of all commands: printed configs, one-line errors and exit codes."""

import errno
import os
import signal
import time

import pytest
import yaml

from psld.commands.entry import entry_point
from psld.commands.main import COMMANDS
from psld.data.settings import PrepareSettings
from psld.utils.errors import RunError, UserError
from tests.commands import TINY, call, command, refused, run, started, succeeded

WHOLE = {"wandb": ("wandb", "track")}
"""Commands that need a word more."""

WITH_KINDS = [*(WHOLE.get(name, (name,)) for name in COMMANDS), ("import", "kind=guide")]
WITH_KINDS.remove(("launch",))
"""Every command of Hydra, and what has settings of its own."""


@pytest.mark.parametrize("words", WITH_KINDS, ids=" ".join)
def test_every_command_prints_its_config_and_does_nothing(words, tmp_path):
    finished = succeeded(call(tmp_path, *words, "--cfg", "job"))
    assert finished.stderr == ""
    assert yaml.safe_load(finished.stdout)
    assert list(tmp_path.iterdir()) == []


def test_the_printed_config_holds_the_overrides(tmp_path):
    overrides = ("process=cld", "training.steps=7", "network.dropout=0.25")
    printed = yaml.safe_load(succeeded(call(tmp_path, "train", "--cfg", "job", *overrides)).stdout)
    assert printed["process"]["gamma"] == 0
    assert printed["process"]["mass_inverse"] == 4
    assert printed["training"]["steps"] == 7
    assert printed["network"]["dropout"] == 0.25
    resolved = succeeded(call(tmp_path, "train", "--cfg", "job", "--resolve", "name=x"))
    assert yaml.safe_load(resolved.stdout)["output"] == "models/by-hand/x"


@pytest.mark.parametrize("words", WITH_KINDS, ids=" ".join)
def test_every_command_refuses_an_unknown_key(words, tmp_path):
    refused(call(tmp_path, *words, "seeed=3"), 2, "no setting is called seeed")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "process.gama=1"], "process.gama (is process.gamma meant?); the command's"),
        (["train", "--cfg", "job", "process.gama=1"], "process.gama (is process.gamma meant?);"),
        (["train", "-m", "process.gama=0,1"], "process.gama (is process.gamma meant?);"),
        (["train", "proces=cld"], "proces (is process meant?);"),
        (["sample", "steps=5"], "steps (is sampler.steps meant?);"),
        (["sample", "sampler=rk45", "sampler.steps=5"], "sampler.steps; the command's --help"),
        (["figure", "grid=demo"], "grid; the command's --help"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest(words, said, tmp_path):
    refused(call(tmp_path, *words), 2, f"no setting is called {said}")


@pytest.mark.parametrize("override", ["=", "training.steps=[1", "~absent", "training..steps=3"])
def test_an_override_that_is_none_is_refused(tmp_path, override):
    refused(call(tmp_path, "train", override), 2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", ["~/nope", "/path (1)", "'/path (1)", "a: {b"])
def test_a_text_that_needs_quotes_is_shown_with_them(tmp_path, value):
    word = f"dataset.source.root={value}"
    line = refused(call(tmp_path, "prepare", "dataset=folder", "dataset.name=x", word), 2, word)
    assert "http" not in line
    advice = line.partition("e.g. '")[2].rstrip("\n'")
    finished = call(tmp_path, "prepare", "dataset=folder", "dataset.name=x", advice)
    refused(finished, 2, value.strip("'"), "no such")


@pytest.mark.parametrize("flags", [["--multirun"], ["--cfg", "job"], ["-cn", "train"]])
@pytest.mark.parametrize("value", ["inf", "9" * 5000, "[" * 500 + "]" * 500, "'", "[1]"])
def test_a_value_that_is_none_is_refused_with_the_flags_of_hydra(tmp_path, flags, value):
    refused(call(tmp_path, "train", *flags, f"process={value}"), 2, "configs/train.yaml: ")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_hydra_cannot_make_is_one_line(tmp_path):
    refused(call(tmp_path, "train", "hydra.run.dir=/proc/x"), 2, "/proc/x")


def test_an_output_that_cannot_be_made_is_one_line(tmp_path, digits):
    (tmp_path / "file").touch()
    train = ("train", *TINY, "training.steps=1", f"data={digits}")
    refused(call(tmp_path, *train, "output=/proc/x"), 2, "/proc/x", "No such file or directory")
    refused(call(tmp_path, *train, f"output={'x' * 300}"), 2, "File name too long")
    refused(
        call(tmp_path, *train, "output=file"), 2, "file: is a file; output and runs are folders"
    )


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--speed"], "unrecognized arguments: --speed"),
        (["--info", "training.steps=3"], "invalid choice: 'training.steps=3'"),
        (["-cn"], "expected one argument"),
        (["--resolve"], "--resolve"),
        (["--experimental-rerun", "config.pickle"], "--experimental-rerun is not supported"),
        (["-m", "training.steps=range(5,1)"], "training.steps=range(5,1): there is nothing to"),
    ],
)
def test_a_wrong_flag_is_one_line(tmp_path, flags, words):
    refused(call(tmp_path, "train", *flags), 2, words)
    assert list(tmp_path.iterdir()) == []


def test_missing_values_are_named(tmp_path):
    refused(call(tmp_path, "sample"), 2, "configs/sample.yaml: missing: model=…, output=…")
    refused(call(tmp_path, "sample", "model=x"), 2, "missing: output=…")
    refused(call(tmp_path, "prepare", "dataset=folder"), 2, "dataset.name=…, dataset.source.root=…")
    assert list(tmp_path.iterdir()) == []


def test_a_process_of_its_own_prints_the_same_line(tmp_path):
    """No word of Hydra's, no traceback, nothing on stdout, nothing written."""
    finished = run(tmp_path, command("train", "training.steps=0", "+training.speed=3"))
    line = refused(finished, 2, "training.steps", "unknown key training.speed")
    assert line.startswith("error: configs/train.yaml: ")
    assert finished.stdout == ""
    assert list(tmp_path.iterdir()) == []


# --- what a command raises ----------------------------------------------------------------------


@pytest.fixture
def ends_with(monkeypatch, tmp_path, capsys):
    """Runs a command that raises `error`; gives its exit code and what it says on stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["prepare"])
    before = signal.getsignal(signal.SIGTERM)

    def run_command(error: BaseException) -> tuple[int, str]:
        @entry_point("prepare", PrepareSettings)
        def main(settings: PrepareSettings) -> None:
            raise error

        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, capsys.readouterr().err

    yield run_command
    signal.signal(signal.SIGTERM, before)


def test_bad_input_and_faults_have_exit_codes_of_their_own(ends_with):
    assert ends_with(UserError("x.h5: wrong\n  in two lines")) == (
        2,
        "error: x.h5: wrong in two lines\n",
    )
    assert ends_with(RunError("NaN at step 3")) == (1, "error: NaN at step 3\n")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_a_fault(ends_with, number):
    full = OSError(number, os.strerror(number), "data/x.h5")
    exit_code, line = ends_with(full)
    assert exit_code == 1
    assert line.startswith(f"error: data/x.h5: cannot be written ({os.strerror(number)});")
    assert ends_with(OSError(number, os.strerror(number)))[1].startswith("error: the disk: cannot")


def test_a_read_only_file_system_is_a_wrong_place(ends_with):
    read_only = OSError(errno.EROFS, "Read-only file system", "data/x.h5")
    assert ends_with(read_only) == (2, "error: [Errno 30] Read-only file system: 'data/x.h5'\n")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("Unable to allocate 8.00 PiB for an array"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory"
        ),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
)
def test_too_little_memory_is_a_fault(ends_with, error):
    advice = "lower training.micro_batch, or batch_size when sampling, or give it more memory"
    assert ends_with(error) == (1, f"error: out of memory: {advice}\n")


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_a_failing_file_system_is_a_fault(ends_with, number):
    exit_code, line = ends_with(OSError(number, os.strerror(number), "data/x.h5"))
    assert exit_code == 1
    assert "data/x.h5" in line
    assert line.count("\n") == 1


def test_a_bug_keeps_its_traceback(ends_with):
    for bug in (ZeroDivisionError("division by zero"), OSError(errno.EINVAL, "Invalid")):
        with pytest.raises(type(bug)):
            ends_with(bug)


def test_an_error_is_not_raised_twice(ends_with, tmp_path):
    """A command that fails and is called again in the same process starts with a clean slate."""
    refused(call(tmp_path, "sample", "model=absent", "output=x"), 2, "absent/manifest.json")
    succeeded(call(tmp_path, "prepare", "output=x.h5"))
    refused(call(tmp_path, "train", "data=absent.h5"), 2, "absent.h5")
    refused(call(tmp_path, "train", "data=other.h5"), 2, "other.h5")


def test_a_terminated_command_cleans_up(tmp_path):
    """SIGTERM unwinds: no partial file is left, and the exit code is the shell's."""
    code = """if True:
        import sys, time
        from psld.commands.entry import entry_point
        from psld.data.settings import PrepareSettings
        from psld.utils.files import atomic_path

        @entry_point("prepare", PrepareSettings)
        def main(settings):
            with atomic_path("file.txt") as partial:
                partial.write_text("half")
                time.sleep(60)

        sys.argv = ["prepare"]
        main()
    """
    with started(tmp_path, [*command("prepare")[:1], "-c", code]) as process:
        while not list(tmp_path.glob(".*.partial")):
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        process.terminate()
        assert process.wait(timeout=30) == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []

"""The common behavior of all commands: printed configs, one-line errors and exit codes."""

import errno
import os
import signal
import time

import pytest
import yaml

from psld.commands.main import entry_point, run_command
from psld.commands.report import OutputSettings
from psld.utils.errors import RunError, UserError, explained
from tests.commands import TINY, call, command, refused, run, started, succeeded


@pytest.mark.parametrize(
    ("words", "key"),
    [("train", "process"), ("sample", "sampler"), ("import_model x.ckpt", "network")],
)
def test_a_command_prints_its_config_without_running(words, key, tmp_path):
    """This also holds if required settings are missing, or if an override has no key."""
    finished = succeeded(call(tmp_path, *words.split(), "--cfg", "job"))
    assert finished.stderr == ""
    assert key in yaml.safe_load(finished.stdout)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        # A key that resembles an existing key.
        (
            "train process.gama=1",
            "unknown key process.gama (is process.gamma meant?); the command's",
        ),
        ("sample steps=5", "steps (is sampler.steps meant?);"),
        ("wandb sync seeed=3", "psld wandb: unknown key seeed"),
        ("launch seeed=3 -- x", "psld launch: unknown key seeed"),
        # A part inside a group is selected by its field, or by @ if the part has a folder of
        # configs.
        (
            "prepare dataset=folder dataset.name=x dataset.source=array dataset.source.root=x",
            "dataset.source.root (with another dataset.source=…?);",
        ),
        ("sample sampler.guidance.scale=2", "(with another guidance@sampler.guidance=…?);"),
        # No settings.
        ("train =", "psld train: "),
        ("train ~absent", "absent"),
        ("train name=größe", "name=größe: cannot be read; put a text in quotes, e.g. 'name="),
        ("plan grid", "grid: not of the form KEY=VALUE"),
        ("page grid_name=", "configs/grid/.yaml: grid '': a name begins with a letter"),
        ("wandb upload", "verb: Input should be "),
        ("tabulate output=x", "output: needs the name of a table; add table=NAME"),
        ("train hydra.run.dir=/proc/x", "unknown key hydra"),
        # Missing ones.
        ("sample model=x", "psld sample: missing: output=…"),
        ("figure", "psld figure: figure is missing"),
        ("wandb", "psld wandb: missing arguments; usage: psld wandb sync|dashboard KEY"),
        # A wrong folder.
        (
            "sample model=models/demo/cld output=x",
            "models/demo/cld: no such model; there is no folder models/ here; run it in the",
        ),
        # Flags.
        ("train --speed", "--speed: unknown flag; the flags are --help, --cfg job and --multirun"),
        ("tabulate --cfg job", "--cfg: not of the form KEY=VALUE"),
        ("train --cfg training.steps=3", "--cfg: unknown flag"),
    ],
)
def test_invalid_overrides_are_refused_in_one_line(tmp_path, words, complaint):
    refused(call(tmp_path, *words.split()), 2, complaint)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", ["/path (1)", "'/path (1)", "a: {b"])
def test_a_text_that_needs_quotes_is_printed_with_quotes(tmp_path, value):
    prepare, word = ("prepare", "dataset=folder", "dataset.name=x"), f"dataset.source.root={value}"
    line = refused(call(tmp_path, *prepare, word), 2, word)
    assert "http" not in line
    advice = line.partition("e.g. '")[2].rstrip("\n'")
    refused(call(tmp_path, *prepare, advice), 2, value.strip("'"), "No such file")


@pytest.mark.parametrize("word", ["dataset.source.root=~/nope", "dataset.source.root='~/nope'"])
def test_a_path_may_begin_with_a_tilde(tmp_path, monkeypatch, word):
    """Bash does not expand ~ in these words."""
    monkeypatch.setenv("HOME", str(tmp_path))
    prepare = call(tmp_path, "prepare", "dataset=folder", "dataset.name=x", word)
    refused(prepare, 2, f"{tmp_path}/nope: neither a folder")


@pytest.mark.parametrize("value", ["inf", "9" * 5000, "[" * 500 + "]" * 500, "'", "[1]"])
def test_an_invalid_value_is_refused_also_with_flags_of_hydra(tmp_path, value):
    for flags in ["--multirun"], ["--cfg", "job"]:
        refused(call(tmp_path, "train", *flags, f"process={value}"), 2, "psld train: ")
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_cannot_be_created_is_refused_in_one_line(tmp_path, digits):
    (tmp_path / "file").touch()
    for output, complaint in (
        ("x" * 300, "File name too long"),
        ("file", "file: is a file; output and runs are folders"),
    ):
        train = ("train", *TINY, "training.steps=1", f"data={digits}", f"output={output}")
        refused(call(tmp_path, *train), 2, complaint)


def test_a_separate_process_prints_the_same_error(tmp_path):
    """There is no message of Hydra, no traceback, no output on stdout, and no file is written."""
    finished = run(tmp_path, command("prepare", "dataset=digits", "+dataset.speed=3"))
    line = refused(finished, 2, "unknown key dataset.speed")
    assert line.startswith("error: psld prepare: ")
    assert finished.stdout == ""
    assert list(tmp_path.iterdir()) == []


# --- what a command raises ----------------------------------------------------------------------

FULL = "data/x.h5: cannot be written ({}); free some space and try again"
MEMORY = (
    "out of memory: lower training.micro_batch, or batch_size when sampling, or give it more memory"
)
ALLOCATOR = "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory"

NO_UNICODE = UnicodeEncodeError("utf-8", "p/\udce4.png", 2, 3, "surrogates not allowed")


def failed(number: int) -> OSError:
    return OSError(number, os.strerror(number), "data/x.h5")


@pytest.mark.parametrize(
    ("error", "exit_code", "line"),
    [
        (UserError("x.h5: wrong\n  in two lines"), 2, "x.h5: wrong in two lines"),
        (RunError("NaN at step 3"), 1, "NaN at step 3"),
        (failed(errno.ENOSPC), 1, FULL.format("No space left on device")),
        (failed(errno.EDQUOT), 1, FULL.format("Disk quota exceeded")),
        (OSError(errno.ENOSPC, "Full"), 1, FULL.format("Full").replace("data/x.h5", "the disk")),
        (failed(errno.EROFS), 2, "[Errno 30] Read-only file system: 'data/x.h5'"),
        (failed(errno.EIO), 1, "[Errno 5] Input/output error: 'data/x.h5'; this machine or "),
        (failed(errno.ESTALE), 1, "[Errno 116] Stale file handle: 'data/x.h5'; this machine or "),
        (failed(errno.ELOOP), 2, "[Errno 40] Too many levels of symbolic links: 'data/x.h5'"),
        (UserError("a\x1b[31m\x07.png: broken"), 2, r"a\x1b[31m\x07.png: broken"),
        (NO_UNICODE, 2, r"'p/\udce4.png': a name or text that is not Unicode; rename the file"),
        (MemoryError(), 1, MEMORY),
        (MemoryError("Unable to allocate 8.00 PiB for an array"), 1, MEMORY),
        (RuntimeError(ALLOCATOR), 1, MEMORY),
        (RuntimeError("CUDA error: out of memory"), 1, f"CUDA error: {MEMORY}"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), 1, MEMORY),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_errors_are_explained(error, exit_code, line):
    code, text = explained(error)
    assert (code, text[: len(line)]) == (exit_code, line)
    assert "\n" not in text


@pytest.mark.parametrize("bug", [ZeroDivisionError(), OSError(errno.EINVAL, "Invalid")])
def test_a_bug_keeps_its_traceback(bug):
    @entry_point("page", OutputSettings, has_config=False)
    def main(settings: OutputSettings) -> None:
        raise bug

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(type(bug)):
        run_command(main, [])
    signal.signal(signal.SIGTERM, before)


def test_a_terminated_command_cleans_up(tmp_path):
    """SIGTERM unwinds: no partial file is left, and the exit code is the shell's."""
    code = """if True:
        import atexit, os, signal, sys, time
        from psld.commands.main import entry_point, run_command
        from psld.commands.report import OutputSettings
        from psld.utils.files import atomic_path

        @entry_point("page", OutputSettings, has_config=False)
        def main(settings):
            # The second one of `timeout` and of Slurm, which comes while Python ends.
            atexit.register(os.kill, os.getpid(), signal.SIGTERM)
            with atomic_path("file.txt") as partial:
                partial.write_text("half")
                time.sleep(60)

        run_command(main, [])
    """
    with started(tmp_path, [*command("page")[:1], "-c", code]) as process:
        while not list(tmp_path.glob(".*.partial")):
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        process.terminate()
        assert process.communicate(timeout=30) == ("", "")
        assert process.returncode == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []

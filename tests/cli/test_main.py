"""The program `psld`: its commands, its help, and its answer to an unknown command."""

import re
import signal
import subprocess
import sys

import pytest
import yaml

import psld
from psld.commands.help import descriptions
from psld.commands.main import COMMANDS, program
from psld.config.locations import CONFIGS
from tests.commands import call, refused, run, succeeded


def words_of(text: str) -> str:
    """A text without its line breaks."""
    return " ".join(text.split())


def test_the_help_has_one_line_for_each_command(tmp_path):
    """The list is also shown without a command."""
    shown = succeeded(call(tmp_path, "--help")).stdout
    assert shown.startswith("usage: psld COMMAND KEY=VALUE …")
    lines = re.findall(r"^  (\w+) +([A-Z].*)\.$", shown, re.MULTILINE)
    assert [name for name, _ in lines] == list(COMMANDS)
    assert all(len(line) <= 120 for line in shown.splitlines())
    assert succeeded(call(tmp_path, "-h")).stdout == shown
    bare = succeeded(run(tmp_path, [sys.executable, "-m", "psld"]))
    assert (bare.stdout, bare.stderr) == (shown, "")


@pytest.mark.parametrize("name", ["trian", "", "--halp"])
def test_the_error_for_an_unknown_command_lists_the_commands(tmp_path, name):
    refused(call(tmp_path, name), 2, f"no command {name!r}", *COMMANDS)


@pytest.mark.parametrize("words", [[], ["plan", "list=cells"]])
def test_a_closed_pipe_is_no_error(resolved, words):
    """An example is `psld plan list=cells | head -1`."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    arguments = [sys.executable, "-m", "psld", *words]
    with subprocess.Popen(arguments, cwd=resolved, text=True, **pipes) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 128 + signal.SIGPIPE


@pytest.mark.parametrize(
    ("line", "exit_code", "says"),
    [
        ("init --help >&-", 0, ""),
        ("init --help > /dev/full", 1, "error: the disk: cannot be written (No space left"),
        ("trian 2> /dev/full", 2, ""),
    ],
)
def test_a_closed_or_full_output_keeps_the_exit_code(tmp_path, line, exit_code, says):
    """An error keeps its exit code if its message cannot be written."""
    finished = run(tmp_path, ["sh", "-c", f"{sys.executable} -m psld {line}"])
    assert (finished.returncode, finished.stderr[: len(says) or None]) == (exit_code, says)


def test_a_printed_text_is_written_at_once(tmp_path):
    """Otherwise `psld --help | grep -q sample` would fail under pipefail: grep ends early."""
    line = f"{sys.executable} -m psld --help | {{ dd bs=1M count=1 status=none; sleep 0.1; }}"
    shown = run(tmp_path, ["bash", "-o", "pipefail", "-c", line])
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.endswith(".\n")


def test_output_has_no_control_characters_and_fits_the_locale(tmp_path):
    """The locale does not change the content of files."""
    code = r"""if True:
        import sys
        from psld.commands import main
        from psld.utils.files import write_text

        write_text("x.md", "0.06 \u00b1 0.01")
        main.overview = lambda: "named \x1b]0;x\x07\n0.06 \u00b1 0.01"
        sys.argv = ["psld"]
        main.main()
    """
    old = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    names = [f"{name}={value}" for name, value in old.items()]
    shown = succeeded(run(tmp_path, ["env", *names, sys.executable, "-c", code])).stdout
    assert shown.splitlines() == [r"named \x1b]0;x\x07", r"0.06 \xb1 0.01"]
    assert (tmp_path / "x.md").read_bytes() == "0.06 ± 0.01".encode()


def test_version_is_printed(tmp_path):
    assert succeeded(call(tmp_path, "--version")).stdout == f"psld {psld.__version__}\n"
    citation = yaml.safe_load((CONFIGS.parent / "CITATION.cff").read_text())
    assert citation["version"] == psld.__version__


# --- the help of a command ------------------------------------------------------------------------


def test_the_help_of_a_command_lists_its_settings(tmp_path):
    """Commands with a config share one code path."""
    commands = {name: program(name).command for name in COMMANDS}
    some = ("train", "prepare", "wandb")
    for name, command in commands.items():
        if command.has_config and name not in some:
            continue
        finished = succeeded(call(tmp_path, name, "--help"))
        assert (finished.stderr, list(tmp_path.iterdir())) == ("", [])
        shown, of_cell = finished.stdout, name == "evaluate_cell"
        record = "cell=GRID/NAME " if of_cell else ""
        words = r"([A-Z ]+ |sync\|dashboard )?"
        assert re.match(rf"usage: psld {name} {record}{words}KEY=VALUE …( -- COMMAND …)?\n", shown)
        texts = descriptions(command.kind)
        assert texts, f"{name}: read from the source of the settings"
        for key in command.run if of_cell else command.kind.model_fields:
            assert re.search(rf"^  {key}:", shown, re.MULTILINE), key
            assert words_of(texts.get(key, "")) in words_of(shown), key
        if of_cell:
            assert set(re.findall(r"^  (\w+):", shown, re.MULTILINE)) == command.run


def test_settings_in_a_group_have_their_descriptions(tmp_path):
    shown = words_of(succeeded(call(tmp_path, "train", "--help")).stdout)
    for group in ("dataset", "network", "training", "wandb"):
        kind = program("train").command.kind.model_fields[group].annotation
        for text in descriptions(kind).values():
            assert words_of(text) in shown
    chosen = "gamma: 0.01 Γ: friction on the position."
    assert chosen in shown, "of several processes, the one that is chosen by default"


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("sample --help sampler=multistep", "multistep (chosen), rk45,"),
        ("sample sampler=multistep -h", "eta: 1.0 η, the amount of noise"),
        ("sample guidance@sampler.guidance=inpainting -h", "mask@sampler.guidance.mask: "),
        ("prepare dataset=folder -h", "root: ??? The folder or archive."),
        ("train training.steps=7 -h", "steps: 7 "),
    ],
)
def test_the_help_shows_the_settings_of_the_selected_groups(tmp_path, words, shown):
    assert shown in words_of(succeeded(call(tmp_path, *words.split())).stdout)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("sample sampler=none", "sampler=none: no such sampler"),
        ("train process=vp-sde process.gamma=0.02", "process.gamma (with another process=…?)"),
        ("train --halp", "--halp"),
    ],
)
def test_the_help_with_invalid_overrides_is_an_error(tmp_path, words, complaint):
    refused(call(tmp_path, *words.split(), "--help"), 2, complaint)

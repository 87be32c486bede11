"""The program `psld`: its commands, its help, and its answer to an unknown command."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

import psld
from psld.commands.help import descriptions
from psld.commands.main import COMMANDS
from psld.config.locations import CONFIGS
from tests.cli.settings import KINDS
from tests.commands import call, refused, run, succeeded


def words_of(text: str) -> str:
    """A text without its line breaks."""
    return " ".join(text.split())


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_the_help_has_one_line_for_each_command(tmp_path, option):
    shown = succeeded(call(tmp_path, option)).stdout
    assert shown.startswith("usage: psld COMMAND KEY=VALUE …")
    lines = re.findall(r"^  (\w+) +([A-Z].*)\.$", shown, re.MULTILINE)
    assert [name for name, _ in lines] == list(COMMANDS) == list(KINDS)
    assert all(len(line) <= 120 for line in shown.splitlines())


def test_without_a_command_the_help_is_shown(tmp_path):
    bare = succeeded(run(tmp_path, [sys.executable, "-m", "psld"]))
    assert bare.stdout == succeeded(call(tmp_path, "--help")).stdout
    assert bare.stderr == ""


def test_psld_is_a_module_that_runs_commands(tmp_path):
    finished = run(tmp_path, [sys.executable, "-m", "psld", "prepare", "output=digits.h5"])
    assert succeeded(finished).stdout.startswith("digits.h5: 1,797 images of 1×8×8")
    assert (tmp_path / "digits.h5").exists()


@pytest.mark.parametrize("name", ["trian", "", "psld.train", "train=x", "--halp"])
def test_what_is_no_command_is_refused_with_those_there_are(tmp_path, name):
    refused(call(tmp_path, name), 2, f"no command {name!r}", *COMMANDS)


@pytest.mark.parametrize("words", [["plan", "--help"], ["plan", "list=cells"]])
def test_a_reader_may_stop_reading(tmp_path, words):
    """As in `psld plan list=cells | head -1`."""
    command = [sys.executable, "-m", "psld", *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=tmp_path, text=True, **pipes) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 128 + signal.SIGPIPE


def test_a_command_may_be_written_with_dashes(tmp_path):
    """As the names of programs and their options are."""
    shown = [succeeded(call(tmp_path, n, "--help")).stdout for n in ("train-guide", "train_guide")]
    assert shown[0] == shown[1]


def test_the_version_is_that_of_the_package(tmp_path):
    assert succeeded(call(tmp_path, "--version")).stdout == f"psld {psld.__version__}\n"
    citation = yaml.safe_load((CONFIGS.parent / "CITATION.cff").read_text())
    assert citation["version"] == psld.__version__


def test_the_completion_knows_every_command(tmp_path):
    assert " ".join(COMMANDS) in succeeded(call(tmp_path, "--completion")).stdout


# --- the help of a command ------------------------------------------------------------------------


def leaves(content: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every key of a config that holds no other keys, and its value."""
    for key, value in content.items():
        if isinstance(value, dict):
            yield from leaves(value)
        else:
            yield key, value


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "launch"])
def test_the_help_of_a_command_lists_its_settings(tmp_path, name):
    finished = succeeded(call(tmp_path, name, "--help"))
    assert finished.stderr == ""
    assert list(tmp_path.iterdir()) == []
    shown = finished.stdout
    assert shown.startswith(f"usage: psld {name} KEY=VALUE …\n")
    config = yaml.safe_load(succeeded(call(tmp_path, name, "--cfg", "job")).stdout)
    assert set(KINDS[name].model_fields) == set(config)
    texts = descriptions(KINDS[name])
    assert texts, "read from the source of the settings"
    for key in KINDS[name].model_fields:
        assert re.search(rf"^  {key}:", shown, re.MULTILINE), key
        assert words_of(texts.get(key, "")) in words_of(shown), key
    for key, value in leaves(config):
        [*printed] = re.findall(rf"^ +{re.escape(key)}: (.*)$", shown, re.MULTILINE)
        assert value in [text if text == value else yaml.safe_load(text) for text in printed], key


def test_settings_in_a_group_have_their_descriptions(tmp_path):
    shown = words_of(succeeded(call(tmp_path, "train", "--help")).stdout)
    for group in ("dataset", "network", "training", "wandb"):
        for text in descriptions(KINDS["train"].model_fields[group].annotation).values():
            assert words_of(text) in shown
    chosen = "gamma: 0.01 Γ: friction on the position."
    assert chosen in shown, "of several processes, the one that is chosen by default"


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (
            ["sample", "sampler=multistep"],
            "sampler: conjugate, em, gddim, multistep (chosen), rk45,",
        ),
        (["sample", "sampler=multistep"], "eta: 1.0 η: noise."),
        (["sample", "sampler=gddim"], "order: 2 Evaluations that a step uses;"),
        (["sample", "guidance@sampler.guidance=inpainting"], "mask@sampler.guidance.mask: boxes"),
        (["prepare", "dataset=folder"], "root: ??? The folder or zip archive."),
        (["train", "model=demo/cld", "training.steps=7"], "process: cld (chosen), psld, recipe,"),
        (["train", "training.steps=7"], "steps: 7 "),
        (
            ["train", "--multirun", "process=cld,psld", "training.steps=7,8"],
            "process: cld (chosen)",
        ),
    ],
)
def test_the_help_is_that_of_the_given_choices(tmp_path, words, shown):
    for given in ([*words[:1], "--help", *words[1:]], [*words[:2], "-h", *words[2:]]):
        assert shown in words_of(succeeded(call(tmp_path, *given)).stdout)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sample", "sampler=none"], "sampler=none: no such sampler"),
        (["sample", "sampler=rk45", "sampler.steps=5"], "no setting is called sampler.steps"),
        (["sample", "cell=demo/cld/none"], "no such cell"),
        (["train_guide", "network=demo"], "train_guide.yaml: network: unknown key progressive_out"),
        (["train", "--halp"], "--halp"),
    ],
)
def test_the_help_of_wrong_words_is_their_error(tmp_path, words, said):
    refused(call(tmp_path, *words, "--help"), 2, said)


def test_the_help_of_both_kinds_of_import(tmp_path):
    guide = succeeded(call(tmp_path, "import", "kind=guide", "--help")).stdout
    assert guide.startswith("usage: psld import KEY=VALUE …")
    assert "kind: guide" in guide
    assert "weights: ema" not in guide


def test_the_help_shows_the_defaults_of_the_users_own_configs(tmp_path):
    shipped = succeeded(call(tmp_path, "sample", "--help")).stdout
    own = tmp_path / "configs" / "sampler" / "em.yaml"
    own.parent.mkdir(parents=True)
    source = (CONFIGS / "sampler" / "em.yaml").read_text()
    own.write_text(source.replace("steps: 1000", "steps: 77"))
    assert "steps: 1000\n" in shipped
    own.with_name("coarse.yaml").write_text(source)
    changed = succeeded(call(tmp_path, "sample", "--help")).stdout
    assert "steps: 77\n" in changed
    assert "sampler: coarse, conjugate, em (chosen), gddim" in changed

"""An error in a custom part prints a traceback that starts at the line of the part, and a note that
names the setting."""

import re
import shutil
from pathlib import Path

import pytest

from tests.commands import TINY, Finished, call, command, run, succeeded
from tests.parts.own import GUIDANCE, HEUN, OBJECTIVES, edit, with_network, write
from tests.parts.test_measure import MODULE
from tests.parts.test_source import CONFIG, WORDS

FILES = {
    "losses": OBJECTIVES,
    "heun": HEUN,
    "pull": GUIDANCE,
    "mymetrics": MODULE,
    "wordlist": WORDS,
}
SHORT = ("training.steps=2", *(word for word in TINY if not word.startswith("network.")))
SAMPLE = ("sample", "output=x", "shard_size=2")
TRAIN = ("train", "network=mynets:Mixer", *SHORT)
MISTAKES = {
    "network-forward": ("mynets", "h = self.a(z)", TRAIN, "network: mynets:Mixer: forward"),
    "network-build": ("mynets", "return Net(in_ch", TRAIN, "network: mynets:Mixer: build"),
    "loss": (
        "losses",
        "return ((module(z, t)",
        ("train", "training.objective=losses:Absolute", *SHORT),
        "training.objective: losses:Absolute: loss",
    ),
    "schedule": (
        "mine",
        "return 0.5 **",
        ("train", "training.schedule=mine:Halves", *SHORT),
        "training.schedule: mine:Halves: factor",
    ),
    "optimizer": (
        "mine",
        "for group in self.param_groups:",
        ("train", "training.optimizer=mine:Odd", *SHORT),
        "training.optimizer: mine:Odd",
    ),
    "source": (
        "wordlist",
        "lines = Path",
        ("prepare", "dataset=mine"),
        "dataset.source: wordlist:Words: open",
    ),
    "sampler": (
        "heun",
        "grid = self.time_grid",
        (*SAMPLE, "sampler=heun:Heun", "sampler.striding=edm", "sampler.steps=5"),
        "sampler: heun:Heun: build",
    ),
    "guidance": (
        "pull",
        "def gradient(z, t):",
        (*SAMPLE, "sampler=em", "guidance@sampler.guidance=pull:Pull", "sampler.steps=5"),
        "sampler.guidance: pull:Pull: build",
    ),
    "measure": (
        "mymetrics",
        "return self.factor *",
        ("evaluate", "images=data/digits.h5", "dataset=digits", "samples=90"),
        "metric.measure: mymetrics:MeanShift: value",
    ),
}
"""For each mistake: the file, the beginning of its line, the command that runs the line, and the
note."""


@pytest.fixture
def folder(outside, digits, model) -> Path:
    (outside / "data").mkdir()
    (outside / "data/digits.h5").symlink_to(digits)
    for ending in (".json", ".digest"):
        (outside / f"data/digits{ending}").symlink_to(digits.with_suffix(ending))
    shutil.copytree(model, outside / "models/demo/psld")
    (outside / "configs/dataset").mkdir(parents=True)
    (outside / "configs/dataset/mine.yaml").write_text(CONFIG)
    (outside / "words.txt").write_text("one two three four")
    return with_network(write(outside, **FILES))


def given(words: tuple[str, ...]) -> list[str]:
    more = {
        "train": ["dataset=digits", "name=x"],
        "sample": ["model=demo/psld"],
        "evaluate": ["metric=mymetrics:MeanShift@mymetrics:Rows"],
    }
    return [*words, *more.get(words[0], [])]


def shows_its_line(finished: Finished, file: str, mistake: str, note: str) -> None:
    assert finished.returncode == 1
    lines = finished.stderr.splitlines()
    first = lines.index("Traceback (most recent call last):")
    assert f'/{file}.py", line ' in lines[first + 1], finished.stderr
    assert mistake in finished.stderr
    assert any(line.startswith(note) for line in lines[-3:]), finished.stderr


@pytest.mark.parametrize("name", MISTAKES)
def test_an_error_in_a_part_shows_its_line_and_the_setting(folder, name):
    file, line, words, note = MISTAKES[name]
    is_block = line.startswith(("for ", "def "))
    edit(folder / f"{file}.py", line, f"1 / 0\n        {line}" if is_block else f"1 / 0; {line}")
    shows_its_line(call(folder, *given(words)), file, "ZeroDivisionError: division by zero", note)


@pytest.mark.parametrize("name", ["network-forward", "network-build", "loss", "measure"])
def test_an_exit_in_a_part_is_an_error(folder, name):
    file, line, words, note = MISTAKES[name]
    edit(folder / f"{file}.py", line, f"raise SystemExit(0); {line}")
    shows_its_line(call(folder, *given(words)), file, "SystemExit: 0", note)


def test_a_signal_is_not_reported_as_an_error_of_a_part(folder):
    line = "h = self.a(z)"
    edit(folder / "mynets.py", line, f"import os; os.kill(os.getpid(), 15); {line}")
    finished = run(folder, command(*given(TRAIN)))
    assert (finished.returncode, "Traceback" in finished.stderr) == (143, False)


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        ("int('x')", "ValueError: invalid literal"),
        ("import nosuchthing", "ModuleNotFoundError: No module named 'nosuchthing'"),
        ("class Open", "SyntaxError: expected ':'"),
    ],
)
def test_an_error_at_module_level_shows_its_line(folder, mistake, said):
    """The import fails before the file defines a class."""
    edit(folder / "mynets.py", "import torch\n", f"import torch\n{mistake}\n")
    finished = run(folder, command(*given(TRAIN)))
    assert finished.returncode == 1
    assert re.search(r'mynets\.py", line \d', finished.stderr)
    assert said in finished.stderr
    assert finished.stderr.endswith("mynets:Mixer: mynets cannot be imported\n")
    assert "psld/" not in finished.stderr, "the frames above the user's are left out"


def test_a_failing_logger_shows_its_line_and_the_training_continues(folder):
    words = ("train", "logger={kind: mine:Fails, at: entry}", *SHORT)
    finished = succeeded(call(folder, *given(words)))
    assert 'raise KeyError("of a logger")' in finished.stderr
    assert "logger: mine:Fails" in finished.stderr
    assert "wrote models/by-hand/x" in finished.stdout

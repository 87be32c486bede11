"""The benchmarks with tiny sizes, their table, and the planted faults."""

import json
import re
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

from benchmarks import faults

FOLDER = Path(faults.__file__).parent
HELPERS = ("__init__", "gpu", "settings", "timing")


def once(
    name: str, ours: Callable[[], object], baseline: Callable[[], object], repeats: int = 1
) -> None:
    print(name, repeats, ours(), baseline())


TINY = {
    "evaluate": (["--images=60", "--reference=70", "--features=8"], {}),
    "exact": (["--sampler", "em", "--steps", "5"], {"IMAGES": 64, "ORDER_STEPS": (10, 20)}),
    "grid": (["1", "1", "10"], {}),
    "metrics": (["--samples=60", "--reference=60", "--features=8", "--classes=4"], {}),
    "noise": ([], {"SHAPE": (2, 1, 8, 8), "STEPS": 2, "SIDE": 8, "compare": once}),
    "peers": ([], {"IMAGES": 2, "EVALUATIONS": 3, "compare": once}),
    "prepare": (["--pictures=3"], {"REPEATS": 1}),
    "sampling": ([], {"IMAGES": 2, "STEPS": 2, "compare": once}),
    "startup": ([], {"BASE": "import json", "COMMANDS": {}, "REPEATS": 1}),
    "step": ([], {"LARGE": [], "IMAGES": 4, "compare": once, "cpu_seconds": lambda *_: 1}),
}
"""Arguments and constants with which a benchmark takes seconds; the other benchmarks have separate
tests."""


def run(monkeypatch, name: str, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", [name, *words])
    import_module(f"benchmarks.{name}").main()


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * (n == "grid")) for n in TINY],
)
def test_a_benchmark_prints_what_it_measured(name, monkeypatch, capsys):
    words, constants = TINY[name]
    for constant, value in constants.items():
        monkeypatch.setattr(f"benchmarks.{name}.{constant}", value)
    run(monkeypatch, name, *words)
    assert re.search(r"\d", capsys.readouterr().out)


def test_the_stages_of_a_run_are_added_up(tmp_path, monkeypatch, capsys):
    for n, times in enumerate(((0, 3), (1, 2))):
        job = {"rule": "sample", "shellcmd": n, "starttime": times[0], "endtime": times[1]}
        path = tmp_path / ".snakemake/metadata" / str(n)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(job))
    run(monkeypatch, "stages", str(tmp_path))
    assert capsys.readouterr().out.splitlines()[1].split() == ["sample", "2", "4.0", "0.0", "3.0"]


def test_the_table_names_the_benchmarks_that_there_are():
    named = re.findall(r"^\| `(?:python -m benchmarks\.|make gpu-)(\w+)", readme(), re.MULTILINE)
    programs = {path.stem for path in FOLDER.glob("*.py")} - {*HELPERS}
    assert {"gpu_hour" if name == "hour" else name for name in named} == programs


def readme() -> str:
    return (FOLDER / "README.md").read_text()


def test_every_fault_has_its_place_in_the_code():
    """If the code of a fault has changed, adapt the fault; a test of its package must detect it."""
    gone = []
    for name, fault in json.loads(faults.FAULTS.read_text()).items():
        text = (faults.ROOT / fault["file"]).read_text()
        try:
            place = {key: fault[key] for key in fault.keys() & {"old", "new", "nth"}}
            assert faults.planted(text, **place) != text
        except ValueError as error:
            gone.append(f"{name} ({fault['file']}: {error})")
        file, _, test = fault["test"].partition("::")
        if f"def {test.partition('[')[0]}(" not in (faults.ROOT / file).read_text():
            gone.append(f"{name} (no test {fault['test']})")
    assert not gone, f"move these faults in {faults.FAULTS.name}: {', '.join(gone)}"


def test_a_fault_is_planted_at_its_place():
    assert faults.planted("a b a", "b", "c") == "a c a"
    assert faults.planted("a b a", "a", "c", nth=1) == "a b c"
    for old, nth in (("d", None), ("a", None), ("a", 2)):
        with pytest.raises(ValueError, match="times"):
            faults.planted("a b a", old, "c", nth)

"""Benchmarks on a tiny model, on wrong folders, and the planted faults."""

import json
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

import psld
from benchmarks import faults, few_steps, peers, start
from psld.data.store import ImageStore

ON_A_FOLDER = ("denoiser_options", "few_steps", "fitted_levels", "noise_levels", "peers", "start")


def run(monkeypatch, name: str, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", [name, *words])
    import_module(f"benchmarks.{name}").main()


@pytest.fixture
def folder(digits, model, features, tmp_path) -> Path:
    """A folder in which a grid has run."""
    ran = {"data": digits.parent, "models/tiny/psld": model, "features/digits/tiny": features}
    for name, made in ran.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).symlink_to(made)
    return tmp_path


def test_the_table_has_the_start_alone_next_to_samplers(folder, monkeypatch, capsys):
    monkeypatch.setattr(start, "SAMPLERS", start.SAMPLERS[:2] + start.SAMPLERS[-2:])
    words = ["--metric", "tiny", "--images", "20", "--seeds", "2"]
    run(monkeypatch, "start", str(folder), "tiny/psld", *words)
    lines = capsys.readouterr().out.splitlines()
    cells = ([cell.strip() for cell in line.split("|")] for line in lines if line[:1] == "|")
    rows = {name: rest for _, name, *rest, _ in cells}
    assert rows["20 test images"][2:4] == ["1.00", "1.00"]
    assert rows["em striding=quadratic, 100"][1] == "1.00"
    alone, few = rows["few, 0"], rows["few, 6"]
    assert all(" ± " in cell for cell in (alone[0], *alone[2:]))
    # A network that has hardly learned anything makes the images of the start worse.
    assert float(alone[1]) < float(few[1])


def test_cells_from_another_start_are_measured_again(folder, monkeypatch):
    class Nothing:
        def distances(self, cell: few_steps.Cell, images: object) -> few_steps.Cell:
            return cell

    monkeypatch.chdir(folder)
    measured = few_steps.Measured(folder / "models/tiny", "tiny", Nothing())
    samplers = ("few", "em start=mixture", "em striding=quadratic")
    few, em, prior = (measured.one("psld", sampler, 4, 0).start for sampler in samplers)
    assert few == em != prior == ""


@pytest.mark.parametrize("flip", [False, True])
def test_copies_of_training_images_are_seen(digits, features, flip):
    store = ImageStore.open(digits)
    reference = start.Reference(store, flip, psld.load_extractor(features), 100)
    copies = torch.tensor(store.images("train")[:300])
    _, nearest, closest, memorized = reference.numbers(copies)
    assert (nearest, closest, memorized) == (pytest.approx(0, abs=1e-6), 0, 1)
    _, nearest, closest, memorized = reference.numbers(reference.test)
    assert (nearest, closest) == (1, 1)
    assert memorized < 0.1
    mirrored = reference.numbers(copies.flip(-1))[1]
    assert mirrored < 1e-6 if flip else mirrored > 1


def test_samplers_of_others_begin_at_our_start(model, monkeypatch):
    monkeypatch.setattr(peers, "SAMPLES", 20)
    images = peers.Subject(model).images("iPNDM", "our start", 3, 0)
    assert images.shape == (20, 1, 8, 8)
    assert images.float().std() > 0


@pytest.mark.parametrize("name", ON_A_FOLDER)
def test_a_wrong_folder_is_one_line(name, tmp_path, monkeypatch, capsys):
    words = ("tiny/psld",) if name == "start" else ()
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, name, str(tmp_path / "nowhere"), *words)
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert error.startswith(f"error: {tmp_path / 'nowhere'}")
    assert error.count("\n") == 1


def test_every_fault_has_its_place_in_the_code():
    """Where code has moved, write the fault anew: each has to be noticed by a test of its room."""
    gone = []
    for name, fault in json.loads(faults.FAULTS.read_text()).items():
        text = (faults.ROOT / fault["file"]).read_text()
        try:
            place = {key: fault[key] for key in fault.keys() & {"old", "new", "nth"}}
            assert faults.planted(text, **place) != text
        except ValueError as error:
            gone.append(f"{name} ({fault['file']}: {error})")
    assert not gone, f"move these faults in {faults.FAULTS.name}: {', '.join(gone)}"


def test_a_fault_is_planted_at_its_place():
    assert faults.planted("a b a", "b", "c") == "a c a"
    assert faults.planted("a b a", "a", "c", nth=1) == "a b c"
    for old, nth in (("d", None), ("a", None), ("a", 2)):
        with pytest.raises(ValueError, match="times"):
            faults.planted("a b a", old, "c", nth)

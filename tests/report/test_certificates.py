"""Certificates: what they hold, what is recomputed, and how a change to them is found."""

import contextlib
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch

from psld.config.settings import write_record
from psld.diffusion.samplers import TimeGridSampler
from psld.grid.cache import load_grid
from psld.metrics.evaluation import Gathered, load_kept, save_kept
from psld.metrics.features import Features
from psld.metrics.results import CellResults
from psld.report.certificate import INDEX, differences, equal_features, rows_of
from psld.utils.errors import UserError
from psld.utils.files import write_text
from psld.utils.tensors import load_tensors, save_tensors
from tests.commands import Finished, call, refused, succeeded
from tests.report.certified import (
    CELLS,
    entries_of,
    evaluate,
    forged,
    make_project,
    random_features,
    reference_features,
    write_reference,
    zipped,
)
from tests.results import link_grid, sealed

CERTIFICATE = "results/certificates/mine.zip"
RESULT = "results/cells/mine/vp-sde/em-20.json"
KEPT = "results/cells/mine/vp-sde/em-20.safetensors"
REFERENCE = "features/digits/fd-classifier/reference/features.safetensors"
MODEL = "models/mine/vp-sde/manifest.json"
TABLE = "results/tables/mine/mine.csv"
RECORD = "samples/mine/vp-sde/em-20/00000-00001.json"


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("certified")
    make_project(folder)
    certify(folder)
    return folder


@pytest.fixture
def project(made, tmp_path) -> Path:
    """A copy of the project to change."""
    return shutil.copytree(made, tmp_path / "project")


@pytest.fixture(scope="session")
def certificate(made) -> bytes:
    return (made / CERTIFICATE).read_bytes()


def certify(folder: Path) -> bytes:
    succeeded(call(folder, "certify", "grid_name=mine"))
    return (folder / CERTIFICATE).read_bytes()


def evaluate_again(folder: Path, cell: str, **options: int) -> None:
    with contextlib.chdir(folder):
        evaluate(load_grid("mine"), cell, **options)


def verify(folder: Path, *certificates: bytes) -> Finished:
    """Verify certificates in a new folder; check that nothing is written outside of it."""
    folder = folder / "certificates"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    before = set(folder.parent.iterdir())
    for number, content in enumerate(certificates):
        (folder / f"{number}.zip").write_bytes(content)
    names = sorted(file.name for file in folder.iterdir())
    finished = call(folder, "verify", *names)
    assert sorted(file.name for file in folder.rglob("*")) == names
    assert set(folder.parent.iterdir()) == before
    return finished


def test_a_certificate_has_no_images_and_no_weights(project, certificate):
    entries = entries_of(certificate)
    assert {INDEX, "grid.json", RESULT, KEPT, REFERENCE, MODEL, TABLE, RECORD} < entries.keys()
    assert {Path(name).suffix for name in entries} <= {".json", ".safetensors", ".csv"}
    assert len([name for name in entries if name.endswith(".safetensors")]) == len(CELLS) + 1
    assert certify(project) == certificate, "equal contents are equal files"


@pytest.mark.parametrize("file", [RESULT, KEPT, REFERENCE, MODEL, RECORD])
def test_a_project_with_a_damaged_or_missing_file_is_not_certified(project, file):
    path = project / file
    path.write_bytes(path.read_bytes()[:-20] + b"x" * 20)
    (project / CERTIFICATE).unlink()
    refused(call(project, "certify", "grid_name=mine"), 2, file)
    assert not (project / CERTIFICATE).exists()
    path.unlink()
    if file not in (RESULT, RECORD):  # A cell may not have been run, or its samples be deleted.
        refused(call(project, "certify", "grid_name=mine"), 2, file, "no such file")


def test_results_of_other_settings_are_left_out_and_a_grid_without_any_is_refused(project):
    results = CellResults.read(project / RESULT).results
    write_record(project / RESULT, CellResults(results=results[:1]))
    counts = "mine: 1 given by the sampler's settings, 8 not run, 3 recomputed from features"
    assert counts in succeeded(verify(project, certify(project))).stdout
    path = project / "configs/grid/mine.yaml"
    path.write_text(path.read_text().replace("samples: 60", "samples: 50"))
    refused(call(project, "certify", "grid_name=mine"), 2, "results/cells/mine: no results")


MINE = "mine: 2 given by the sampler's settings, 4 not run, 6 recomputed from features"


def test_every_number_of_every_table_is_recomputed(made, certificate, tmp_path):
    finished = succeeded(verify(tmp_path, certificate))
    lines = finished.stdout.splitlines()
    assert {f"0.zip: {MINE}", "0.zip: guided: 2 recomputed from features"} < set(lines)
    assert lines[-1].startswith("0.zip: SHA-256 ")
    assert "and settings: not compared with yours, there is no grid mine" in finished.stdout
    assert f"{Path(REFERENCE).parent}: not compared with yours" in finished.stdout
    assert "not proven: " in finished.stdout
    assert "### Grid" not in finished.stdout, "no counts of verdicts"
    tables, _, _ = succeeded(call(made, "tabulate", "grid_name=mine")).stdout.partition("### Grid")
    assert tables in finished.stdout, "the tables of the project"


def test_a_folder_of_files_is_a_certificate_too(made, tmp_path):
    with zipfile.ZipFile(made / CERTIFICATE) as archive:
        archive.extractall(tmp_path / "files")
    assert "files: guided: 2 recomp" in succeeded(call(tmp_path, "verify", "files")).stdout
    (tmp_path / "files/added.txt").touch()
    refused(call(tmp_path, "verify", "files"), 2, "files: added.txt: added")


def test_numbers_whose_features_are_not_kept_are_not_said_to_hold(project):
    """The network evaluations are still recomputed."""
    for seed, cell in enumerate(CELLS):
        evaluate_again(project, cell, seed=seed, largest=3)
    certificate = certify(project)
    finished = verify(project, certificate)
    refused(finished, 1, "8 numbers cannot be recomputed", "keep=")
    counts = "mine: 2 given by the sampler's settings, 6 not recomputed, 4 not run"
    assert f"0.zip: {counts}" in finished.stdout
    assert REFERENCE not in entries_of(certificate)


def test_rounding_is_no_difference():
    assert not list(differences({"a": [1.0, 0.0]}, {"a": ["1.0000001", 1e-10]}))
    assert list(differences({"a": [1.0, 0]}, {"a": [1.0, 1e-5]})) == ["a.1 is 1e-05, recomputed 0"]


def test_a_damaged_byte_of_any_file_is_found_and_the_file_named(certificate, tmp_path):
    entries = entries_of(certificate)
    for name, content in entries.items():
        damaged = bytearray(certificate)
        damaged[certificate.index(content) + len(content) // 2] ^= 1
        refused(verify(tmp_path, damaged), 2, "0.zip", name)
        if name != INDEX:
            changed = zipped(entries | {name: content[:-1] + b"x"})
            refused(verify(tmp_path, changed), 2, f"0.zip: {name}: changed")


@pytest.mark.parametrize("name", ["grid.json", KEPT, REFERENCE, TABLE, MODEL, RESULT])
def test_a_missing_file_is_named(certificate, tmp_path, name):
    entries = entries_of(certificate)
    del entries[name]
    refused(verify(tmp_path, zipped(entries)), 2, f"0.zip: {name}: missing")
    finished = verify(tmp_path, forged(entries))
    assert finished.returncode == (1 if name == RESULT else 2)
    wrong = f"{TABLE}: VP-SDE, 20, distance: ours is" if name == RESULT else name
    assert wrong in finished.stdout + finished.stderr


@pytest.mark.parametrize("name", ["added", "../outside", "/outside", "a/../../outside"])
def test_an_added_file_is_named_and_none_is_written_outside(certificate, tmp_path, name):
    entries = entries_of(certificate) | {name: b"x"}
    refused(verify(tmp_path, zipped(entries)), 2, "0.zip: ", Path(name).name)
    if name != "added":
        refused(verify(tmp_path, forged(entries)), 2, "0.zip: ", name)


def test_names_in_the_grid_do_not_lead_out_of_the_folder(certificate, tmp_path):
    """Recomputed results are written under the names of cells."""
    for old, new in ((b"vp-sde", b"../../outside"), (b'"name": "mine"', b'"name": "../mine"')):
        entries = entries_of(certificate)
        entries["grid.json"] = entries["grid.json"].replace(old, new)
        refused(verify(tmp_path, forged(entries)), 2, "0.zip: ")


def test_what_is_no_certificate_is_refused(tmp_path):
    for content in (b"x" * 1000, zipped({INDEX: b"[1]"}), zipped({"a": b"x", "a/b": b""})):
        refused(verify(tmp_path, content), 2, "0.zip: ")
    refused(call(tmp_path, "verify", "none.zip"), 2, "none.zip: no such file")


Change = Callable[[dict[str, bytes]], None]


def in_text(name: str, old: str, new: str) -> Change:
    def change(entries: dict[str, bytes]) -> None:
        text = entries[name].decode().replace(old, new)
        assert text != entries[name].decode()
        entries[name] = (sealed(json.loads(text)) if "record_sha256" in text else text).encode()

    return change


def in_features(name: str, kind: str, key: str) -> Change:
    def change(entries: dict[str, bytes]) -> None:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "changed"
            path.write_bytes(entries[name])
            stored = load_tensors(path, kind, "")
            stored.arrays[key].flat[3] += 0.25
            save_tensors(path, kind, stored.arrays, stored.origin)
            entries[name] = path.read_bytes()

    return change


ROW = f"{TABLE}: VP-SDE, 20, distance"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            in_text(RESULT, '"nfe": 20.0', '"nfe": 10.0'),
            f"{RESULT}: 0.nfe is 10.0, recomputed 20.0",
        ),
        (in_text(TABLE, "20.0", "10.0"), f"{ROW}: nfe is 10.0, recomputed 20.0"),
        (in_text("grid.json", '"absolute": 0.1', '"absolute": 9'), "band is 0.1, recomputed 9.0"),
        (in_text(MODEL, "0" * 64, "1" * 64), f"{RESULT}: 0.model.weights_sha256 is 000"),
        (in_text(MODEL, "d" * 64, "1" * 64), f"{Path(REFERENCE).parent}: of dataset digits"),
        (in_features(KEPT, "evaluation", "fd-classifier/60/values"), KEPT),
        (in_features(REFERENCE, "features", "train.values"), REFERENCE),
    ],
)
def test_a_forgery_is_found_and_its_file_named(certificate, tmp_path, change, words):
    entries = entries_of(certificate)
    change(entries)
    finished = verify(tmp_path, forged(entries))
    refused(finished, 1 if " is " in words else 2, "0.zip")
    assert words in finished.stdout + finished.stderr


def test_features_that_results_were_not_computed_from_are_found(project):
    """Even if the results have the digest of the features."""
    results = CellResults.read(project / RESULT).results
    evaluate_again(project, "vp-sde/em-20", seed=17)
    kept = {"kept_sha256": CellResults.read(project / RESULT).results[0].kept_sha256}
    results = tuple(result.model_copy(update=kept) for result in results)
    write_record(project / RESULT, CellResults(results=results))
    finished = verify(project, certify(project))
    refused(finished, 1, "0.zip: ", " differences, listed above")
    wrong = [line for line in finished.stdout.splitlines() if line.startswith("differs: 0.zip: ")]
    assert any(f"{RESULT}: 0.estimate.value is " in line for line in wrong)
    assert any(f"{ROW}: ours is " in line for line in wrong)
    assert not any("em-10" in line or "guided" in line for line in wrong)


def test_no_share_of_memorization_is_the_best(made):
    """Noise has the smallest share, and copies have the largest."""
    printed = succeeded(call(made, "tabulate", "grid_name=mine")).stdout
    rows = [line.split("|") for line in printed.splitlines() if line.startswith("| VP-SDE")]
    *_, recall, memorization, _ = zip(*rows[:2], strict=True)
    assert any("★" in text for text in recall)
    assert not any(mark in text for text in memorization for mark in "★≈")


# -- what only a comparison with the reader's own grid and reference finds ------------------------


@pytest.fixture
def reader(made, tmp_path) -> Path:
    """A folder with the grid of the project, and a reference of its own."""
    link_grid(made, tmp_path)
    shutil.copytree(made / "features", tmp_path / "features")
    return tmp_path


def compared(reader: Path, certificate: bytes, *words: str) -> Finished:
    (reader / "theirs.zip").write_bytes(certificate)
    return call(reader, "verify", "theirs.zip", "reference=features", *words)


def write_other_reference(folder: Path, parts: dict[str, Features], **fields: str) -> None:
    with contextlib.chdir(folder):
        write_reference(load_grid("mine"), parts, **fields)


def test_a_certificate_of_the_readers_own_grid_and_reference_has_no_differences(
    reader, certificate
):
    """Also if other tables, of cells that have not been run, are missing."""
    for word in ("grid=mine", "reference=features/digits/fd-classifier/reference"):
        printed = succeeded(compared(reader, certificate, word)).stdout
        assert "and settings: 0 differences from yours, " in printed
        assert f"{Path(REFERENCE).parent}: 0 differences from yours" in printed
        assert f"theirs.zip: {MINE}\n" in printed
        assert "equal features" not in printed


def test_a_certificate_forged_with_the_projects_own_commands_is_refused_entry_by_entry(
    project, reader, monkeypatch
):
    """Its reference is the samples; values, band, a setting and evaluations are made up."""
    path, samples = project / "configs/grid/mine.yaml", random_features(0, 60).values
    text = path.read_text()
    for old, new in {
        "- 2.0\n": "- 0.02\n",
        "absolute: 0.1": "absolute: 9.0",
        "guidance=classifier-free": "guidance=classifier-free\n    - sampler.guidance.scale=9",
    }.items():
        assert old in text
        text = text.replace(old, new, 1)
    path.write_text(text)
    train = Features(torch.cat([samples, samples[:20]]))
    write_other_reference(project, reference_features() | {"train": train})
    for seed, cell in enumerate(CELLS):
        evaluate_again(project, cell, seed=seed, share=0.5)
    refused(call(project, "certify", "grid_name=mine"), 2, "nfe is 5, by the sampler's settings 10")
    with monkeypatch.context() as patch:  # It takes no more than a change of the code.
        patch.setattr(TimeGridSampler, "evaluations", None)
        forged = certify(project)
    finished = compared(reader, forged)
    refused(finished, 1, "theirs.zip: ", "differences")
    for line in (
        "grid.json: tables.mine.band.absolute is 9.0, in your grid 0.1",
        "grid.json: tables.mine: VP-SDE, distance.paper is 0.02, in your grid 2.0",
        "grid.json: samplers.free-10.guidance.scale is 9.0, in your grid 2.0",
        f"{TABLE}: VP-SDE, distance: nfe is 5, by the sampler's settings 10",
        f"{TABLE}: VP-SDE, NFE: nfe is 5, by the sampler's settings 10",
        f"{ROW}: nfe is 10, by the sampler's settings 20",
        "guided.csv: PSLD, distance: nfe is 10, by the sampler's settings 20",
        f"{Path(REFERENCE).parent}: train.values: the distance from yours is ",
    ):
        assert line in finished.stdout
    assert "theirs.zip: mine: 8 different, 4 not run\n" in finished.stdout
    same = (
        "equal features: vp-sde/em-10 (fd-classifier): 60 of 60 are exactly those of train images"
    )
    assert same in finished.stdout
    [psld] = [line for line in finished.stdout.splitlines() if line.startswith("| PSLD ")]
    assert psld.count("–") == 2, "the reader's grid has other settings"
    assert "(2.00, " in finished.stdout, "values and bands are the reader's"


def test_left_out_rows_and_another_name_of_the_grid_are_differences(reader, certificate):
    text = (reader / "configs/grid/mine.yaml").read_text().replace("VP-SDE, 30", "VP-SDE, 31")
    (reader / "configs").unlink()
    write_text(reader / "configs/grid/other.yaml", text)
    finished = compared(reader, certificate, "grid=other")
    refused(finished, 1, "differences")
    row = "differs: theirs.zip: grid.json: tables.mine: VP-SDE,"
    for column in ("distance", "NFE", "recall", "memorization"):
        assert f"{row} 31, {column} is absent, in your grid present\n" in finished.stdout
        assert f"{row} 30, {column} is present, in your grid absent\n" in finished.stdout
    refused(compared(reader, certificate, "grid=none"), 2, "configs/grid/none.yaml: no such grid")


def test_a_reference_may_differ_by_rounding_only(reader, certificate):
    parts = reference_features()
    rounded = {name: Features(x.values * (1 + 1e-6), x.logits) for name, x in parts.items()}
    write_other_reference(reader, rounded)
    succeeded(compared(reader, certificate))
    write_other_reference(reader, parts | {"test": Features(parts["test"].values * 1.001)})
    printed = compared(reader, certificate).stdout
    assert (
        "test.values: the distance from yours is 1.0e-03 of the spread, 1e-04 is allowed" in printed
    )
    assert "test.logits: the distance from yours is inf" in printed
    assert "train.values: " not in printed
    write_other_reference(reader, parts, extractor_digest="f" * 64)
    finished = compared(reader, certificate)
    refused(finished, 1)
    assert "reference: extractor_digest is eeee" in finished.stdout
    shutil.rmtree(reader / "features")
    refused(compared(reader, certificate), 2, "reference=features: no features.safetensors there")


def test_classes_and_numbers_of_samples_are_those_of_the_settings(project, tmp_path):
    """A class accuracy of other classes, and a distance of more samples, look better."""
    evaluate_again(project, "classes/free-10", seed=2, classes=9)
    line = "free-10.safetensors: labels: not the sampler's classes"
    refused(call(project, "certify", "grid_name=mine"), 2, line)
    more = Gathered({("fd-classifier", 60): random_features(0, 600)}, None, [])
    kept = save_kept(tmp_path / "kept", more, 512)
    with pytest.raises(UserError, match="features of 600 samples, not of 60"):
        load_kept(tmp_path / "kept", kept)


def test_equal_features_are_counted():
    x, y = random_features(1, 10).values, random_features(2, 10).values
    rows = {"a": x, "b": torch.cat([y[:4], x[4:]]), "c": y[[0, 1, 2, 3, 4, 4]]}
    assert list(equal_features({name: rows_of(features) for name, features in rows.items()})) == [
        "b: 6 of 10 are exactly those of a",
        "c: 1 of 6 repeat another",
        "c: 4 of 6 are exactly those of b",
    ]

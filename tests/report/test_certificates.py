"""Certificates: their content, what is recomputed, and how changes are detected."""

import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from psld.config.settings import write_record
from psld.evaluation.results import NUMBER_KINDS, CellResults
from psld.report import certificate as certificates
from psld.report.certificate import INDEX, differences
from psld.utils.tensors import load_tensors, save_tensors
from tests.commands import Finished, call, disk_full_after, refused, succeeded
from tests.report.certified import (
    CELLS,
    CERTIFICATE,
    KEPT,
    MINE,
    MODEL,
    RECORD,
    REFERENCE,
    REFERENCE_MANIFEST,
    RESULT,
    ROW,
    TABLE,
    certify,
    entries_of,
    evaluate_again,
    forged,
    zipped,
)
from tests.results import IMPORTED, sealed


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


def test_a_certificate_has_no_images_and_no_weights(copied, certificate):
    entries = entries_of(certificate)
    assert {INDEX, "grid.json", RESULT, KEPT, REFERENCE, MODEL, TABLE, RECORD} < entries.keys()
    assert {Path(name).suffix for name in entries} <= {".json", ".safetensors", ".csv"}
    assert len([name for name in entries if name.endswith(".safetensors")]) == len(CELLS) + 1
    assert certify(copied) == certificate, "equal contents are equal files"


def test_a_project_with_a_damaged_or_missing_file_is_not_certified(copied):
    (copied / CERTIFICATE).unlink()
    for file in (RESULT, KEPT, REFERENCE, MODEL, RECORD):
        path = copied / file
        whole = path.read_bytes()
        path.write_bytes(whole[:-20] + b"x" * 20)
        refused(call(copied, "certify", "grid_name=mine"), 2, file)
        path.unlink()
        if file not in (
            RESULT,
            RECORD,
        ):  # They may be missing in a real project.
            refused(call(copied, "certify", "grid_name=mine"), 2, file, "no such file")
        path.write_bytes(whole)
    assert not (copied / CERTIFICATE).exists()


def test_a_dataset_prepared_with_other_settings_is_not_certified(copied):
    """The dataset was prepared by hand, so Snakemake does not prepare it again."""
    grid = json.loads(entries_of((copied / CERTIFICATE).read_bytes())["grid.json"])
    settings = grid["datasets"]["digits"]["settings"]["dataset"] | {"filter": "box"}
    (copied / "data").mkdir(exist_ok=True)
    (copied / "data/digits.h5").touch()
    (copied / "data/digits.json").write_text(sealed({"settings": settings, "digest": "x"}))
    said = (
        "data/digits.h5: prepared with another dataset.filter; to use these: "
        "psld prepare dataset=mine/digits replace=true"
    )
    refused(call(copied, "certify", "grid_name=mine"), 2, said)


def test_results_of_other_settings_are_left_out_and_a_grid_without_results_is_refused(copied):
    results = CellResults.read(copied / RESULT).results
    write_record(copied / RESULT, CellResults(results=results[:1]))
    counts = "mine: 1 given by the sampler's settings, 8 not run, 3 recomputed from features"
    assert counts in succeeded(verify(copied, certify(copied))).stdout
    path = copied / "configs/grid/mine.yaml"
    path.write_text(path.read_text().replace("samples: 60", "samples: 50"))
    refused(call(copied, "certify", "grid_name=mine"), 2, "results/cells/mine: no results")


def test_every_number_of_every_table_is_recomputed(made, certificate, tmp_path):
    finished = succeeded(verify(tmp_path, certificate))
    lines = finished.stdout.splitlines()
    assert {f"0.zip: {MINE}", "0.zip: guided: 2 recomputed from features"} < set(lines)
    assert lines[-1].startswith("0.zip: SHA-256 ")
    assert "and settings: not compared with yours, there is no grid mine" in finished.stdout
    assert f"{Path(REFERENCE).parent}: not compared with yours" in finished.stdout
    assert "not recomputed: SHA-256 of weights and initial distributions, " in finished.stdout
    assert "### Grid" not in finished.stdout, "no counts of verdicts"
    tables, _, _ = succeeded(call(made, "tabulate", "grid_name=mine")).stdout.partition("### Grid")
    assert tables in finished.stdout, "the tables of the project"


def test_a_folder_of_files_is_a_certificate_too(made, tmp_path):
    with zipfile.ZipFile(made / CERTIFICATE) as archive:
        archive.extractall(tmp_path / "files")
    assert "files: guided: 2 recomp" in succeeded(call(tmp_path, "verify", "files")).stdout
    (tmp_path / "files/added.txt").touch()
    refused(call(tmp_path, "verify", "files"), 2, "files: added.txt: added")


def test_rounding_is_no_difference():
    assert not list(differences({"a": [1.0, 0.0]}, {"a": ["1.0000001", 1e-10]}))
    assert list(differences({"a": [1.0, 0]}, {"a": [1.0, 1e-5]})) == ["a.1 is 1e-05, recomputed 0"]


def test_a_damaged_byte_and_a_changed_or_missing_file_are_found_and_named(certificate, tmp_path):
    entries = entries_of(certificate)
    for name in (INDEX, KEPT):
        content, damaged = entries[name], bytearray(certificate)
        damaged[certificate.index(content) + len(content) // 2] ^= 1
        refused(verify(tmp_path, damaged), 2, "0.zip", name)
    changed = zipped(entries | {TABLE: entries[TABLE][:-1] + b"x"})
    refused(verify(tmp_path, changed), 2, f"0.zip: {TABLE}: changed")
    for name in ("grid.json", KEPT, REFERENCE, TABLE, MODEL, RESULT):
        others = {each: content for each, content in entries.items() if each != name}
        finished = verify(tmp_path, forged(others))
        assert finished.returncode == (1 if name == RESULT else 2)
        wrong = f"{TABLE}: VP-SDE, 20, distance: ours is" if name == RESULT else name
        assert wrong in finished.stdout + finished.stderr
    refused(verify(tmp_path, zipped(others)), 2, f"0.zip: {RESULT}: missing")


def test_an_added_file_is_named_and_not_written_outside(certificate, tmp_path):
    """This also holds if the index lists the file."""
    for name in ("added", "../outside", "/outside"):
        entries = entries_of(certificate) | {name: b"x"}
        refused(verify(tmp_path, zipped(entries)), 2, f"0.zip: {name}: added")
        refused(verify(tmp_path, forged(entries)), 2, "0.zip: ", name)


def test_a_zip_is_not_unpacked_if_it_is_a_bomb_or_has_two_entries_of_a_name(
    certificate, tmp_path, monkeypatch
):
    monkeypatch.setattr(certificates, "LARGEST", 1000)
    succeeded(verify(tmp_path, certificate))  # The certificate is larger, and is not a zip bomb.
    monkeypatch.setattr(zipfile.ZipFile, "extractall", lambda *_: pytest.fail("unpacked"))
    bomb = io.BytesIO(certificate)
    with zipfile.ZipFile(bomb, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(10_000_000))
    refused(verify(tmp_path, bomb.getvalue()), 2, "0.zip: has 10,", "bytes when unpacked")
    twice = io.BytesIO(certificate)
    with zipfile.ZipFile(twice, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("grid.json", b"{}")
    refused(verify(tmp_path, twice.getvalue()), 2, "0.zip: grid.json: 2 entries of this name")


def test_a_full_temporary_folder_is_no_damage(certificate, tmp_path):
    (tmp_path / "mine.zip").write_bytes(certificate)
    with disk_full_after(1000):
        refused(call(tmp_path, "verify", "mine.zip"), 1, "/psld-", "cannot be written", "free some")


def test_texts_of_a_certificate_do_not_control_the_terminal(certificate, tmp_path):
    """Control characters could hide a line that reports a difference."""
    entries = entries_of(certificate)
    in_text("grid.json", '"title": "Mine"', r'"title": "\u001b[8mMine"')(entries)
    assert "### \\x1b[8mMine\n" in succeeded(verify(tmp_path, forged(entries))).stdout
    line = refused(verify(tmp_path, zipped(entries | {"\x1b[8m": b""})), 2, "\\x1b[8m: added")
    assert "\x1b" not in line


def test_missing_seeds_are_reported_with_each_number(copied, tmp_path):
    path = copied / "configs/grid/mine.yaml"
    path.write_text(f"seeds: {{sampling: [0, 1]}}\n{path.read_text()}")
    printed = succeeded(verify(tmp_path, certify(copied))).stdout
    assert "0.zip: guided: 2 recomputed from features, seeds missing\n" in printed
    assert "✓¹, 1 of 2 seeds)" in printed or "✗¹, 1 of 2 seeds)" in printed


def test_costs_of_sampling_are_reported_as_counted_by_the_maker(certificate, tmp_path, monkeypatch):
    """This holds for every kind of number."""
    cost = NUMBER_KINDS["class_accuracy"]._replace(from_features=False)
    monkeypatch.setitem(NUMBER_KINDS, "class_accuracy", cost)
    printed = succeeded(verify(tmp_path, certificate)).stdout
    assert "guided: 1 counted by the certificate's maker, 1 recomputed from features" in printed


def test_names_in_the_grid_do_not_lead_out_of_the_folder(certificate, tmp_path):
    """Recomputed results are written under the names of cells."""
    for old, new in ((b"vp-sde", b"../../outside"), (b'"name": "mine"', b'"name": "../mine"')):
        entries = entries_of(certificate)
        entries["grid.json"] = entries["grid.json"].replace(old, new)
        refused(verify(tmp_path, forged(entries)), 2, "0.zip: ")


def test_the_grid_of_another_version_is_refused(certificate, tmp_path):
    entries = entries_of(certificate)
    in_text("grid.json", '"shard_size":', '"dropped": {}, "shard_size":')(entries)
    refused(verify(tmp_path, forged(entries)), 2, "dropped", "by another version of psld")


def test_a_file_that_is_no_certificate_is_refused(tmp_path):
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


def test_forgeries_are_found_and_their_files_named(certificate, tmp_path):
    numbers = {
        f"{RESULT}: 0.nfe is 10.0, recomputed 20.0": (RESULT, '"nfe": 20.0', '"nfe": 10.0'),
        f"{ROW}: nfe is 10.0, recomputed 20.0": (TABLE, "20.0", "10.0"),
        "band is 0.1, recomputed 9.0": ("grid.json", '"absolute": 0.1', '"absolute": 9'),
        f"{RESULT}: 0.model.weights_sha256 is 000": (MODEL, "0" * 64, "1" * 64),
    }
    network = MODEL, '"base_channels": 16', '"base_channels": 512'
    words = f"{MODEL}: settings.network.base_channels is 512, in the grid 16"
    for changes in (numbers, {words: network}):
        entries = entries_of(certificate)
        for change in changes.values():
            in_text(*change)(entries)
        finished = verify(tmp_path, forged(entries))
        refused(finished, 1, "0.zip")
        assert [words for words in changes if words not in finished.stdout] == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (in_text(MODEL, "d" * 64, "1" * 64), f"{Path(REFERENCE).parent}: made from dataset digits"),
        (
            in_text(REFERENCE_MANIFEST, '"digits"', '"digits-8"'),
            f"{Path(REFERENCE).parent}: made from dataset digits-8",
        ),
        (in_features(KEPT, "evaluation", "fd-classifier/60/values"), KEPT),
        (in_features(REFERENCE, "features", "train.values"), REFERENCE),
    ],
)
def test_files_that_do_not_belong_together_are_refused(certificate, tmp_path, change, words):
    entries = entries_of(certificate)
    change(entries)
    refused(verify(tmp_path, forged(entries)), 2, "0.zip", words)


@pytest.mark.parametrize("imported", [False, True])
def test_a_model_of_fewer_steps_than_the_grid_trains_is_found(certificate, tmp_path, imported):
    """This also holds if the results state the same smaller number of steps. An imported model has
    the steps of its checkpoint."""
    entries, origin = entries_of(certificate), IMPORTED.model_dump_json() if imported else "null"
    for name in (MODEL, RESULT, RESULT.replace("20", "10")):
        in_text(name, '"step": 1200', '"step": 3')(entries)
        in_text(name, '"imported": null', f'"imported": {origin} ')(entries)
    finished = verify(tmp_path, forged(entries))
    assert (f"{MODEL}: step is 3, in the grid 1200\n" in finished.stdout) != imported
    assert imported or "0.zip: 1 differences" in finished.stderr


def test_samples_of_the_prior_that_state_a_start_are_found(certificate, tmp_path):
    """This also holds if the samples of all cells state the same."""
    entries, none = entries_of(certificate), '"start_sha256": null'
    for cell in CELLS:
        in_text(f"results/cells/mine/{cell}.json", none, none.replace("null", '"f"'))(entries)
    finished = verify(tmp_path, forged(entries))
    refused(finished, 1, "0.zip: 1 differences")
    assert "the prior: some cells that start there state another start\n" in finished.stdout


def test_features_that_results_were_not_computed_from_are_found(copied):
    """This holds even if the results have the digest of the features."""
    results = CellResults.read(copied / RESULT).results
    evaluate_again(copied, "vp-sde/em-20", seed=17)
    kept = {"kept_sha256": CellResults.read(copied / RESULT).results[0].kept_sha256}
    results = tuple(result.model_copy(update=kept) for result in results)
    write_record(copied / RESULT, CellResults(results=results))
    finished = verify(copied, certify(copied))
    refused(finished, 1, "0.zip: ", " differences, listed above")
    wrong = [line for line in finished.stdout.splitlines() if line.startswith("differs: 0.zip: ")]
    assert any(f"{RESULT}: 0.estimate.value is " in line for line in wrong)
    assert any(f"{ROW}: ours is " in line for line in wrong)
    assert not any("em-10" in line or "guided" in line for line in wrong)

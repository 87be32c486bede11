"""Verification of certificates: what is recomputed, what holds, and what is no certificate."""

import contextlib
import hashlib
import io
import json
import zipfile

import pytest

from psld.grid import paths
from psld.grid.loading import load_grid
from psld.report import differences
from psld.report.certificate import INDEX
from tests.commands import call, refused, succeeded
from tests.report.certificates.conftest import CERTIFICATE, verify
from tests.report.certified import CELLS, evaluate, write_reference
from tests.report.tampering import entries_of, written
from tests.results import sealed


def test_every_number_of_every_table_is_recomputed(made, certificate, tmp_path):
    finished = succeeded(verify(tmp_path, certificate))
    lines = finished.stdout.splitlines()
    assert "0.zip: mine: 8 hold, 4 not run" in lines
    assert "0.zip: guided: 2 hold" in lines
    assert "0.zip: bits: 1 hold, 1 not run" in lines
    assert lines[-1] == f"0.zip: SHA-256 {hashlib.sha256(certificate).hexdigest()}"
    printed = succeeded(call(made, "tabulate", "grid_name=mine")).stdout
    assert printed in finished.stdout, "the tables of the project"


def test_rounding_may_change_the_last_digit_of_a_table(project, certificate, tmp_path, monkeypatch):
    """Here by a tenth, as if machines rounded so much."""
    path = project / paths.cell_result("mine", "vp-sde/em-10")
    content = json.loads(path.read_text())
    estimate = content["results"][0]["estimate"]
    estimate["value"] *= 1.1
    estimate["without_block"] = [1.1 * value for value in estimate["without_block"]]
    path.write_text(sealed(content))
    succeeded(call(project, "certify", "grid_name=mine"))
    monkeypatch.setattr(differences, "TOLERANCE", 0.5)
    changed = entries_of((project / CERTIFICATE).read_bytes())
    name = "results/tables/mine/mine.md"
    assert changed[name] != entries_of(certificate)[name]
    succeeded(verify(tmp_path, (project / CERTIFICATE).read_bytes()))


def zipped(*entries: tuple[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", compression) as archive:
        for name, content in entries:
            archive.writestr(zipfile.ZipInfo(name), content, compression)
    return memory.getvalue()


OWN = (INDEX, b'{"grid": "mine", "sha256": {}}')


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["not a certificate"]),
        (b"x" * 1000, ["not a certificate"]),
        (zipped(("a.json", b"{}")), ["not a certificate", INDEX]),
        (zipped((INDEX, b"[1]")), [INDEX]),
        (zipped((INDEX, b'{"format": 2, "grid": "x", "sha256": {}}')), [INDEX, "format"]),
        (zipped(OWN), ["grid.json"]),
        (zipped(OWN, ("../../outside", b"x")), ["../../outside"]),
        (zipped(OWN, ("/outside", b"x")), ["/outside"]),
        (zipped(OWN, ("a\\outside", b"x")), ["a\\outside"]),
        (zipped(OWN, ("a", b"x"), ("a/b", b"x")), ["0.zip"]),
        (zipped(OWN, ("a", bytes(10**6)), compression=zipfile.ZIP_DEFLATED), ["0.zip", "larger"]),
    ],
)
def test_what_is_no_certificate_is_refused_and_nothing_is_written(tmp_path, content, words):
    folder = tmp_path / "folder"
    folder.mkdir()
    refused(verify(folder, content), 2, *words)
    assert [path.name for path in tmp_path.rglob("*")] == ["folder", "0.zip"]


def test_a_certificate_that_is_cut_or_longer_or_missing_is_refused(certificate, tmp_path):
    refused(verify(tmp_path, certificate[:-100]), 2, "0.zip")
    refused(verify(tmp_path, certificate + b"x"), 2, "0.zip")
    refused(call(tmp_path, "verify", "none.zip"), 2, "none.zip: no such file")
    refused(call(tmp_path, "verify", "none"), 2, "none: not a setting KEY=VALUE")
    refused(call(tmp_path, "verify"), 2, "configs/verify.yaml: missing: files=…")


def test_names_in_the_grid_do_not_lead_out_of_the_folder(certificate, tmp_path):
    """Recomputed results are written under the names of cells."""
    entries = entries_of(certificate)
    (tmp_path / "folder").mkdir()
    grid = entries["grid.json"].decode().replace("vp-sde", "../../../../outside")
    finished = verify(tmp_path / "folder", written(entries | {"grid.json": grid.encode()}, True))
    refused(finished, finished.returncode, "0.zip")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["0.zip"]


def test_the_results_of_two_clusters_are_one_table(project, certificate, tmp_path):
    """Each has run some of the cells; on one of them, the other's features are not the same."""
    first, second = (project / paths.cell_result("mine", f"vp-sde/em-{n}") for n in (10, 20))
    parts = []
    for missing in (first, second):
        content = missing.read_bytes()
        missing.unlink()
        said = succeeded(call(project, "certify", "grid_name=mine")).stdout
        assert "2 of 4 cells" in said
        parts.append((project / CERTIFICATE).read_bytes())
        missing.write_bytes(content)
    finished = succeeded(verify(tmp_path, *parts))
    whole = succeeded(verify(tmp_path, certificate))
    assert finished.stdout.partition("0.zip")[0] == whole.stdout.partition("0.zip")[0]
    assert "0.zip: mine: 4 hold, 8 not run" in finished.stdout
    assert "1.zip: mine: 4 hold, 8 not run" in finished.stdout


def test_certificates_that_contradict_each_other_are_refused(project, certificate, tmp_path):
    with contextlib.chdir(project):
        grid = load_grid("mine")
        reference, manifest = write_reference(grid)
        evaluate(grid, CELLS[0], 17, reference, manifest)
    succeeded(call(project, "certify", "grid_name=mine"))
    other = (project / CERTIFICATE).read_bytes()
    succeeded(verify(tmp_path, other))
    refused(verify(tmp_path, certificate, other), 2, "1.zip", CELLS[0], "other results")

    path = project / "configs/grid/mine.yaml"
    path.write_text(path.read_text().replace("absolute: 0.1", "absolute: 0.2"))
    succeeded(call(project, "certify", "grid_name=mine"))
    changed = (project / CERTIFICATE).read_bytes()
    refused(verify(tmp_path, certificate, changed), 2, "1.zip: not of the same grid as 0.zip")


def test_numbers_whose_features_are_not_kept_are_not_said_to_hold(project, tmp_path):
    """The network evaluations are still recomputed."""
    with contextlib.chdir(project):
        grid = load_grid("mine")
        reference, manifest = write_reference(grid)
        for seed, cell in enumerate(CELLS):
            evaluate(grid, cell, seed, reference, manifest, largest=3)
    succeeded(call(project, "certify", "grid_name=mine"))
    finished = verify(tmp_path, (project / CERTIFICATE).read_bytes())
    refused(finished, 1, "8 numbers cannot be recomputed", "psld evaluate keep=")
    assert "0.zip: mine: 2 hold, 6 not recomputed, 4 not run" in finished.stdout
    assert not [
        name for name in entries_of((tmp_path / "0.zip").read_bytes()) if "features.s" in name
    ]

"""Certificates as they are made: what they hold, and what is refused."""

import hashlib
import shutil
from pathlib import Path

import pytest

from psld.config.settings import write_record
from psld.grid import paths
from psld.grid.results import CellResults
from psld.report.certificate import pack
from tests.commands import call, refused, succeeded
from tests.report.certificates.conftest import CERTIFICATE, verify
from tests.report.certified import CELLS
from tests.report.tampering import entries_of


def test_it_has_no_images_and_no_weights(certificate):
    entries = entries_of(certificate)
    assert {"grid.json", "results/tables/mine/mine.csv", "data/digits.digest"} < entries.keys()
    assert {paths.cell_result("mine", cell) for cell in CELLS} < entries.keys()
    assert "samples/mine/vp-sde/em-10/00000-00001.json" in entries
    endings = {Path(name).suffix for name in entries}
    assert endings <= {".json", ".safetensors", ".csv", ".md", ".digest", ".png"}
    tensors = [name for name in entries if name.endswith(".safetensors")]
    assert len(tensors) == len(CELLS) + 1, "kept features of each cell, and of the reference"


def test_equal_contents_are_equal_files(project, certificate):
    succeeded(call(project, "certify", "grid_name=mine", "output=again.zip"))
    assert (project / "again.zip").read_bytes() == certificate


def test_the_format_does_not_depend_on_the_version_of_python(tmp_path):
    """A certificate is compared byte by byte with one that is written again."""
    (tmp_path / "a").write_text("content")
    pack("mine", {"a/b.json": tmp_path / "a"}, tmp_path / "made.zip")
    digest = hashlib.sha256((tmp_path / "made.zip").read_bytes()).hexdigest()
    assert digest == "26e02ffd41a610dcbd9cd6f69c28b7494399eea7cd64a74ce9ca8b9e0b068464"


@pytest.mark.parametrize(
    "file",
    [
        "results/cells/mine/vp-sde/em-10.safetensors",
        "features/digits/fd-classifier/reference/features.safetensors",
    ],
)
def test_features_that_results_were_not_computed_from_are_refused(project, file):
    path = project / file
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    (project / CERTIFICATE).unlink()
    for _ in range(2):
        refused(call(project, "certify", "grid_name=mine"), 2, file, "evaluate")
        path.unlink(missing_ok=True)
    assert not (project / CERTIFICATE).exists()


@pytest.mark.parametrize(
    "file",
    [
        "models/mine/vp-sde/manifest.json",
        "features/digits/fd-classifier/manifest.json",
        "features/digits/fd-classifier/reference/manifest.json",
        "data/digits.digest",
    ],
)
def test_a_file_that_is_missing_is_named(project, file):
    (project / file).unlink()
    refused(call(project, "certify", "grid_name=mine"), 2, file, "no such file")


def test_a_grid_without_results_is_refused(project):
    shutil.rmtree(project / "results")
    line = refused(call(project, "certify", "grid_name=mine"), 2, "no results of the grid mine")
    assert line.startswith("error: results/cells/mine: ")
    assert not (project / "results").exists()


def test_the_size_is_said_before_a_large_certificate_is_written(project):
    (project / CERTIFICATE).unlink()
    said = refused(
        call(project, "certify", "grid_name=mine", "max_mb=0.01"), 2, "would have 0.1 MB"
    )
    assert "max_mb=" in said
    assert not (project / CERTIFICATE).exists()
    succeeded(call(project, "certify", "grid_name=mine", "max_mb=null"))


def test_results_that_the_grid_does_not_ask_for_are_left_out(project, tmp_path):
    """A cell that lacks one of its metrics has not been run; results of other metrics are old."""
    short, long = (project / paths.cell_result("mine", f"vp-sde/em-{n}") for n in (10, 20))
    results = CellResults.read(short).results
    write_record(short, CellResults(results=results[:1]))
    old = results[0].model_copy(update={"seed": 1})
    write_record(long, CellResults(results=(old, *CellResults.read(long).results)))
    assert "2 of 4 cells" in succeeded(call(project, "certify", "grid_name=mine")).stdout
    finished = succeeded(verify(tmp_path, (project / CERTIFICATE).read_bytes()))
    assert "0.zip: mine: 4 hold, 8 not run" in finished.stdout


def test_a_cell_of_other_settings_is_left_out(project):
    path = project / "configs/grid/mine.yaml"
    path.write_text(
        path.read_text().replace(
            "- sampler=em\n", "- sampler=em\n    - sampler.final_time=1e-2\n", 1
        )
    )
    said = succeeded(call(project, "certify", "grid_name=mine")).stdout
    assert "1 of 4 cells" in said


def test_no_share_of_memorization_is_the_best(made):
    """Noise has the smallest share, and copies have the largest."""
    printed = succeeded(call(made, "tabulate", "grid_name=mine")).stdout
    assert "★ the best of its column (of memorization, none is);" in printed
    rows = [line.split("|") for line in printed.splitlines() if line.startswith("| VP-SDE")]
    *_, recall, memorization, _ = zip(*rows[:2], strict=True)
    assert any("★" in text for text in recall)
    assert not any(mark in text for text in memorization for mark in "★≈")

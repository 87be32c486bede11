"""Certificates of a tiny grid: what they hold, what is recomputed, and twenty tamperings."""

import contextlib
import hashlib
import io
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load, save

from psld.config.settings import write_record
from psld.grid import paths
from psld.grid.loading import load_grid
from psld.grid.results import CellResults
from psld.report import differences
from psld.report.certificate import INDEX, pack
from psld.report.verification import Verification
from psld.utils.files import digest_of
from tests.commands import Finished, call, refused, succeeded
from tests.report.certified import CELLS, evaluate, make_project, write_reference
from tests.report.tampering import TAMPERINGS, entries_of, written
from tests.results import sealed

CERTIFICATE = "results/certificates/mine.zip"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("certified")
    make_project(folder)
    succeeded(call(folder, "certify", "grid_name=mine"))
    return folder


@pytest.fixture
def project(made, tmp_path) -> Path:
    """A copy of the project to change."""
    return shutil.copytree(made, tmp_path / "project")


@pytest.fixture(scope="module")
def certificate(made) -> bytes:
    return (made / CERTIFICATE).read_bytes()


def verify(folder: Path, *certificates: bytes) -> Finished:
    files = [f"{number}.zip" for number in range(len(certificates))]
    for file, content in zip(files, certificates, strict=True):
        (folder / file).write_bytes(content)
    return call(folder, "verify", *files)


# --- what holds -----------------------------------------------------------------------------------


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


# --- tampering ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_twenty_tamperings_are_refused_with_the_entry_named(certificate, tmp_path, seed):
    random = np.random.default_rng(seed)
    tamper = TAMPERINGS[seed % len(TAMPERINGS)]
    tampered, entry = tamper(certificate, random)
    assert tampered != certificate
    finished = verify(tmp_path, tampered)
    assert finished.returncode in (1, 2)
    assert entry in finished.stdout + finished.stderr
    refused(finished, finished.returncode, "0.zip")


def test_a_forgery_with_all_digests_corrected_is_found_by_recomputing(certificate, tmp_path):
    """Other features, and the result says that it was computed from them."""
    entries = entries_of(certificate)
    name = paths.cell_result("mine", "vp-sde/em-20")
    tensors = load(entries[paths.kept(name)])
    tensors["fd-classifier/60/values"][:, 0] += 1
    entries[paths.kept(name)] = save(tensors)
    digest = hashlib.sha256(entries[paths.kept(name)]).hexdigest()
    content = json.loads(entries[name])
    for result in content["results"]:
        result["kept_sha256"] = digest
    entries[name] = sealed(content).encode()
    finished = verify(tmp_path, written(entries, with_digests=True))
    refused(finished, 1, "0.zip", "do not hold")
    wrong = [line for line in finished.stdout.splitlines() if line.startswith("wrong: ")]
    assert any(f"{name}: 0.estimate.value is " in line for line in wrong)
    assert any("mine.csv: VP-SDE, 20, distance: ours is " in line for line in wrong)
    assert not any("em-10" in line or "guided" in line for line in wrong)
    # The three numbers of the cell, and that of the other one, of which the rank is another.
    assert "0.zip: mine: 4 hold, 4 wrong, 4 not run" in finished.stdout


def test_bits_of_an_image_that_were_changed_are_found(certificate, tmp_path):
    """With the digests corrected, that of the shard too."""
    entries = entries_of(certificate)
    name = "results/cells/mine/vp-sde/likelihood/00001.json"
    content = json.loads(entries[name])
    del content["digest"]
    content["bits"][2] += 0.1
    entries[name] = json.dumps({**content, "digest": digest_of(content)}).encode()
    finished = verify(tmp_path, written(entries, with_digests=True))
    refused(finished, 1, "do not hold")
    assert "vp-sde/likelihood.json: bits_per_dimension is" in finished.stdout
    assert "0.zip: bits: 1 wrong, 1 not run" in finished.stdout


def test_no_stored_number_is_read_to_recompute(certificate, tmp_path):
    """With all numbers of all results and tables doctored, the recomputed ones are the same."""
    entries = entries_of(certificate)
    for name in entries:
        if name in [paths.cell_result("mine", cell) for cell in CELLS]:
            content = json.loads(entries[name])
            for result in content["results"]:
                result["estimate"] |= {"value": 7.0, "without_block": [7.0] * 20}
                result |= {"floor": 7.0, "noise": 7.0, "nfe": 7.0, "sampling_seconds": 7.0}
            entries[name] = sealed(content).encode()
    results = []
    for number, content in enumerate((certificate, written(entries, with_digests=True))):
        file, folder = tmp_path / f"{number}.zip", tmp_path / str(number)
        file.write_bytes(content)
        made = Verification(file, folder).results
        results.append({p.relative_to(made): p.read_text() for p in made.rglob("*.json")})
    assert len(results[0]) == len(CELLS) + 1, "a likelihood"
    assert results[0] == results[1]


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


# --- several certificates, and features that are not kept -----------------------------------------


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


# --- making one -----------------------------------------------------------------------------------


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

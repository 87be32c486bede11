"""Certificates are compared with the reader's own grid and reference, which detects forgeries."""

import contextlib
import json
import math
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from psld.diffusion.samplers import TimeGridSampler
from psld.evaluation.evaluation import GatheredFeatures, load_kept, save_kept
from psld.metrics.features import Features
from psld.report.certificate import equal_features, rows_of
from psld.utils.errors import UserError
from psld.utils.files import write_text
from tests.commands import Finished, call, refused, succeeded
from tests.grid.mine import grid_in, link_grid
from tests.report.certified import (
    CELLS,
    KEPT,
    MINE,
    REFERENCE,
    RESULT,
    ROW,
    TABLE,
    certify,
    entries_of,
    evaluate_again,
    forged,
    random_features,
    reference_features,
    write_reference,
)
from tests.results import sealed


@pytest.fixture
def reader(made, tmp_path) -> Path:
    """A folder with the grid of the project and the reader's own reference."""
    link_grid(made, tmp_path)
    shutil.copytree(made / "features", tmp_path / "features")
    return tmp_path


def compared(reader: Path, certificate: bytes, *words: str) -> Finished:
    (reader / "theirs.zip").write_bytes(certificate)
    return call(reader, "verify", "theirs.zip", "reference=features", *words)


def write_other_reference(folder: Path, parts: dict[str, Features], **fields: str) -> None:
    grid = grid_in(folder)
    with contextlib.chdir(folder):
        write_reference(grid, parts, **fields)


def test_a_certificate_of_the_readers_own_grid_and_reference_has_no_differences(
    reader, certificate
):
    """This also holds if tables of cells that have not been run are missing."""
    printed = succeeded(compared(reader, certificate, f"reference={Path(REFERENCE).parent}")).stdout
    assert "and settings: 0 differences from yours, " in printed
    assert f"{Path(REFERENCE).parent}: 0 differences from yours" in printed
    assert f"theirs.zip: {MINE}\n" in printed
    assert "equal features" not in printed


def test_each_forged_entry_of_a_certificate_is_reported(copied, reader, monkeypatch):
    """In this forgery, the reference consists of the samples, and values, band, a setting and
    evaluations are invented."""
    path, samples = copied / "configs/grid/mine.yaml", random_features(0, 60).values
    text = path.read_text()
    for old, new in {
        "- 2.0\n": "- 0.02\n",
        "absolute: 0.1": "absolute: 9.0",
        "title: Mine": "title: Better",
        "guidance=classifier-free": "guidance=classifier-free\n    - sampler.guidance.scale=9",
    }.items():
        assert old in text
        text = text.replace(old, new, 1)
    path.write_text(text)
    train = Features(torch.cat([samples, samples[:20]]))
    write_other_reference(copied, reference_features() | {"train": train})
    for seed, cell in enumerate(CELLS):
        evaluate_again(copied, cell, seed=seed, share=0.5)
    refused(call(copied, "certify", "grid_name=mine"), 2, "nfe is 5, by the sampler's settings 10")
    with monkeypatch.context() as patch:  # Such a forgery needs only a change of the code.
        patch.setattr(TimeGridSampler, "evaluations", None)
        theirs = certify(copied)
    finished = compared(reader, theirs)
    refused(finished, 1, "theirs.zip: ", "differences")
    for line in (
        "grid.json: tables.mine.band.absolute is 9.0, in your grid 0.1",
        "grid.json: tables.mine.title is Better, in your grid Mine",
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
    same = "equal features: vp-sde/em-10 (fd-classifier): 60 of 60 are equal to train images"
    assert same in finished.stdout
    [psld] = [line for line in finished.stdout.splitlines() if line.startswith("| PSLD ")]
    assert psld.count("–") == 2, "the reader's grid has other settings"
    assert "(2.00, " in finished.stdout, "values and bands are the reader's"


def test_omitted_rows_are_differences(reader, certificate):
    text = (reader / "configs/grid/mine.yaml").read_text().replace("VP-SDE, 30", "VP-SDE, 31")
    (reader / "configs").unlink()
    write_text(reader / "configs/grid/other.yaml", text)
    finished = compared(reader, certificate, "grid_name=other")
    refused(finished, 1, "differences")
    row = "differs: theirs.zip: grid.json: tables.mine: VP-SDE,"
    for column in ("distance", "NFE", "recall", "memorization"):
        assert f"{row} 31, {column} is absent, in your grid present\n" in finished.stdout
        assert f"{row} 30, {column} is present, in your grid absent\n" in finished.stdout
    refused(
        compared(reader, certificate, "grid_name=none"), 2, "configs/grid/none.yaml: no such grid"
    )


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
    write_other_reference(reader, parts | {"test": Features(parts["test"].values * math.nan)})
    printed = compared(reader, certificate).stdout
    assert "test.values: the distance from yours is nan of the spread" in printed
    write_other_reference(reader, parts, extractor_digest="f" * 64)
    finished = compared(reader, certificate)
    refused(finished, 1)
    assert "reference: extractor_digest is eeee" in finished.stdout
    write_other_reference(reader, parts, dataset="digits-8")
    finished = compared(reader, certificate)
    refused(finished, 1)
    assert "reference: you have no reference of digits with this extractor\n" in finished.stdout
    shutil.rmtree(reader / "features")
    refused(compared(reader, certificate), 2, "reference=features: no features.safetensors there")


def test_numbers_whose_features_are_not_kept_are_not_recomputed(copied, reader):
    """The network evaluations are still recomputed. An import that is not in the reader's grid is
    a difference.
    """
    for seed, cell in enumerate(CELLS):
        evaluate_again(copied, cell, seed=seed, moments=False)
    finished = compared(reader, certify(copied))
    refused(finished, 3, "8 numbers cannot be recomputed", "keep=")
    counts = "mine: 2 given by the sampler's settings, 6 not recomputed, 4 not run"
    assert f"theirs.zip: {counts}" in finished.stdout
    path = copied / "configs/grid/mine.yaml"
    content = yaml.safe_load(path.read_text())
    overrides = content["models"]["vp-sde"]
    content["models"]["vp-sde"] = {"overrides": overrides, "checkpoint": "/downloads/official.ckpt"}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    finished = compared(reader, certify(copied))
    refused(finished, 1)
    line = "grid.json: models.vp-sde.checkpoint is official.ckpt, in your grid absent\n"
    assert line in finished.stdout


def test_numbers_of_other_features_are_recomputed_when_some_features_are_left_out(copied, reader):
    """The certificate lacks the features of fewer samples, which are measured last."""
    path = copied / "configs/grid/mine.yaml"
    content = yaml.safe_load(path.read_text())
    content["tables"]["mine"]["columns"].append({"label": "fewer", "samples": 50})
    for row in content["tables"]["mine"]["rows"]:
        row.pop("paper", None)
    path.write_text(yaml.safe_dump(content))
    for seed, cell in enumerate(CELLS):
        evaluate_again(copied, cell, seed=seed)
    entries = entries_of(certify(copied))
    results = json.loads(entries[RESULT])
    (reader / "kept").write_bytes(entries[KEPT])
    kept = load_kept(reader / "kept", results["results"][0]["kept_sha256"])
    del kept.samples["fd-classifier", 50]
    sha256 = save_kept(reader / "kept", kept, 512)
    for result in results["results"]:
        result["kept_sha256"] = sha256
    results["results"][0]["estimate"]["value"] *= 0.9
    entries |= {RESULT: sealed(results).encode(), KEPT: (reader / "kept").read_bytes()}
    assert f"{RESULT}: 0.estimate.value is " in compared(reader, forged(entries)).stdout


def test_from_mean_and_covariance_the_distance_is_recomputed_without_its_interval(copied, reader):
    """Other numbers computed from the same features are only stated."""
    for seed, cell in enumerate(CELLS):
        evaluate_again(copied, cell, seed=seed, largest=3)
    certificate = certify(copied)
    finished = compared(reader, certificate)
    words = "5 numbers cannot be recomputed", "3 intervals cannot be recomputed", "keep="
    refused(finished, 3, *words)
    counts = (
        "2 given by the sampler's settings, 4 not recomputed, 4 not run, 2 recomputed from mean"
    )
    assert f"theirs.zip: mine: {counts} and covariance, interval stated\n" in finished.stdout
    assert f"{Path(REFERENCE).parent}: 0 differences from yours" in finished.stdout
    entries = entries_of(certificate)
    results = json.loads(entries[RESULT])
    results["results"][0]["estimate"]["value"] *= 0.9
    entries[RESULT] = sealed(results).encode()
    finished = compared(reader, forged(entries))
    refused(finished, 1, "1 differences")
    assert f"{RESULT}: 0.estimate.value is " in finished.stdout


def test_wrong_classes_and_numbers_of_samples_are_refused(copied, tmp_path):
    """A class accuracy for other classes, and a distance of more samples, would look better."""
    evaluate_again(copied, "classes/free-10", seed=2, classes=9)
    line = "free-10.safetensors: labels: not the sampler's classes"
    refused(call(copied, "certify", "grid_name=mine"), 2, line)
    more = GatheredFeatures({("fd-classifier", 60): random_features(0, 600)}, None, [])
    kept = save_kept(tmp_path / "kept", more, 512)
    with pytest.raises(UserError, match="features of 600 samples, not 60"):
        load_kept(tmp_path / "kept", kept)


def test_equal_features_are_counted():
    x, y = random_features(1, 10).values, random_features(2, 10).values
    rows = {"a": x, "b": torch.cat([y[:4], x[4:]]), "c": y[[0, 1, 2, 3, 4, 4]]}
    assert list(equal_features({name: rows_of(features) for name, features in rows.items()})) == [
        "b: 6 of 10 are equal to a",
        "c: 1 of 6 repeat another image",
        "c: 4 of 6 are equal to b",
    ]

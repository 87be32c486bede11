"""A grid's cell from its shards to its results: `psld sample` and `psld evaluate_cell`."""

import json
import re
import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest
import yaml

from psld.config.settings import parse
from psld.evaluation import evaluation
from psld.evaluation.evaluation import load_kept
from psld.evaluation.folders import load_reference
from psld.evaluation.results import CellResult, CellResults
from psld.metrics.distances import frechet_distance
from psld.metrics.extraction import FeatureExtractor
from psld.metrics.features import Reference
from psld.metrics.settings import MetricSettings
from psld.sampling.shards import Shard
from psld.utils.errors import UserError
from tests.commands import TINY, call, files_below, refused, succeeded
from tests.results import sealed

TRAIN = {"extractor": {"steps": 20}, "features": "fd-classifier-train"}
METRICS = {
    "fd-classifier-train": TRAIN,
    "fd-classifier-test": TRAIN | {"reference_split": "test"},
    "fd-classifier-other": {"extractor": {"steps": 20, "seed": 1}},
    "kd-classifier-train": TRAIN | {"measure": {"kind": "kernel", "subsets": 3}},
    "precision-classifier-train": TRAIN | {"measure": {"kind": "precision"}},
    "recall-classifier-train": TRAIN | {"measure": {"kind": "recall"}},
    "memorization-classifier-train": TRAIN | {"measure": {"kind": "memorization"}},
}
SOURCES = ("fd-classifier-train", "fd-classifier-other")
GRID = {
    "defaults": ["dataset=digits", *TINY, "training.steps=30"],
    "metric": "fd-classifier-train",
    "samples": 25,
    "shard_size": 10,
    "batch_size": 10,
    "gallery": "em-3",
    "models": {"psld": ["process=psld"]},
    "samplers": {"em": {"overrides": ["sampler=em"], "budget": "sampler.steps"}},
    "tables": {
        "mine": {
            "title": "Mine",
            "headings": ["model"],
            "cell": {"sampler": "em", "budget": 3, "model": "psld"},
            "columns": [
                {"label": "train"},
                {"label": "test", "metric": "fd-classifier-test", "samples": 15},
                *({"label": name, "metric": name} for name in list(METRICS)[2:]),
            ],
            "rows": [{"label": ["PSLD"]}],
        }
    },
}
CELL = "cell=mine/psld/em-3"
RESULT = "results/cells/mine/psld/em-3.json"


def write_yaml(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content))


@pytest.fixture(scope="module")
def made(digits, model, tmp_path_factory) -> Path:
    """A folder with a grid of one cell, sampled by two processes: shards 0 and 1, and shard 2."""
    folder = tmp_path_factory.mktemp("cell")
    write_yaml(folder / "configs/grid/mine.yaml", GRID)
    (folder / "data").mkdir()
    shutil.copy(digits, folder / "data/digits.h5")
    shutil.copytree(model, folder / "models/mine/psld")
    for name, own in METRICS.items():
        config = {"defaults": ["fd-classifier", "_self_"], "name": name, **own}
        write_yaml(folder / f"configs/metric/{name}.yaml", config)
    for name in SOURCES:
        succeeded(call(folder, "train_extractor", f"metric={name}"))
        succeeded(call(folder, "reference", f"metric={name}"))
    succeeded(call(folder, "sample", CELL, "shards=2"))
    succeeded(call(folder, "sample", CELL, "first=2", "shards=1"))
    return folder


@pytest.fixture
def project(made, tmp_path) -> Path:
    """A copy of the folder to damage."""
    return shutil.copytree(made, tmp_path / "project")


@pytest.fixture(scope="module")
def evaluated_once(made, tmp_path_factory) -> Path:
    """The same folder after the evaluation of the cell; `said` has the output of the command."""
    folder = shutil.copytree(made, tmp_path_factory.mktemp("evaluated") / "project")
    (folder / "said").write_text(succeeded(call(folder, "evaluate_cell", CELL)).stdout)
    return folder


@pytest.fixture
def evaluated(evaluated_once, tmp_path) -> Path:
    """A copy of the evaluated folder to damage."""
    return shutil.copytree(evaluated_once, tmp_path / "project")


def results(folder: Path, file: str = RESULT) -> dict[str, CellResult]:
    return {one.metric["name"]: one for one in CellResults.read(folder / file).results}


def test_each_metric_of_a_cell_is_of_its_own_number_of_samples(evaluated):
    together, said = results(evaluated), (evaluated / "said").read_text()
    assert together.keys() == METRICS.keys()
    assert re.findall(r"^(\S+ of \d+ images): \S+ ± ", said, re.MULTILINE) == [
        f"{name} of {15 if name == 'fd-classifier-test' else 25} images" for name in METRICS
    ]
    assert said.endswith(f"wrote {RESULT}\n")
    assert len({result.value for result in together.values()}) >= 5


def test_the_gpu_is_given_back_before_the_long_work_of_the_cpu(project, monkeypatch):
    """Without the networks, whose memory other jobs need, and after all computations on the GPU."""
    happened, alive, measured = [], weakref.WeakSet(), MetricSettings.evaluate
    create = FeatureExtractor.__init__

    def created(self, *given):
        create(self, *given)
        alive.add(self)

    def noted(metric, *given):
        happened.append(metric.measure.kind)
        return measured(metric, *given)

    monkeypatch.setattr(FeatureExtractor, "__init__", created)
    monkeypatch.setattr(MetricSettings, "evaluate", noted)
    monkeypatch.setattr(evaluation, "give_back", lambda _: happened.append(len(alive)))
    succeeded(call(project, "evaluate_cell", CELL))
    on_gpu, on_cpu = ["kernel", "precision", "recall", "memorization"], ["frechet"] * 3
    assert happened == [*on_gpu, 0, *on_cpu]


def test_what_depends_on_a_reference_alone_is_computed_once_for_all_cells(evaluated, monkeypatch):
    expected, computed, once = results(evaluated), [], Reference.once

    def noted(reference, name, compute):
        def computing():
            computed.append(name)
            return compute()

        return once(reference, name, computing)

    def again() -> dict[str, CellResult]:
        computed.clear()
        succeeded(call(evaluated, "evaluate_cell", CELL))
        return results(evaluated)

    monkeypatch.setattr(Reference, "once", noted)
    kept = sorted((evaluated / ".cache/references").iterdir())
    assert len(kept) == len(SOURCES)
    assert again() == expected
    assert computed == []
    kept[0].write_bytes(kept[0].read_bytes()[:-1])
    assert again() == expected
    of_one = len(computed)
    assert of_one > 0, "a damaged file is made again"
    monkeypatch.setattr(evaluation, "code_digest", lambda *_: "of other code")
    assert again() == expected
    assert len(computed) > of_one
    assert {name.split()[0] for name in computed} == {"floor", "noise", "radii", "distances"}


def test_a_cell_keeps_what_its_metrics_were_computed_from(evaluated):
    """Every number can be computed again, without images and networks."""
    project = evaluated
    kept_file = project / "results/cells/mine/psld/em-3.safetensors"
    (digest,) = {result.kept_sha256 for result in results(project).values()}
    kept = load_kept(kept_file, digest)
    assert set(kept.samples) == {
        ("fd-classifier-train", 25),
        ("fd-classifier-train", 15),
        ("fd-classifier-other", 25),
    }
    for name, result in results(project).items():
        metric = parse(MetricSettings, result.metric, name)
        reference, made = load_reference(project / f"features/digits/{metric.features}/reference")
        assert made.features_sha256 == result.reference_sha256
        again = metric.evaluate(kept.samples[metric.features, result.samples], reference).estimate
        assert again.value == pytest.approx(result.value, rel=1e-9)
        assert again.without_block == pytest.approx(result.estimate.without_block, rel=1e-9)
        wanted = {"floor": result.floor, "noise": result.noise}
        assert metric.scale(reference) == pytest.approx(wanted, rel=1e-9)
    succeeded(call(project, "evaluate_cell", CELL, "keep=31"))
    without = load_kept(kept_file, results(project)["fd-classifier-train"].kept_sha256)
    assert without.samples == {}, "the classifiers have 32 features"
    for group, features in kept.samples.items():
        distance = frechet_distance(without.moments[group], features.total)
        assert distance == pytest.approx(0, abs=1e-9), "their mean and covariance are kept"
    assert without.costs == kept.costs
    kept_file.write_bytes(kept_file.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=r"em-3\.safetensors: damaged.*; evaluate the cell again"):
        load_kept(kept_file, digest)


def test_memorization_names_its_nearest_pairs(evaluated):
    found = results(evaluated)
    assert found["fd-classifier-train"].nearest is None
    pairs = found["memorization-classifier-train"].nearest
    assert len(pairs) == len({sample for sample, _ in pairs}) == 8
    assert all(sample < 25 and image < 1437 for sample, image in pairs)
    succeeded(call(evaluated, "figure", "grid_name=mine", "figure=nearest/psld/em-3"))
    assert (evaluated / "results/figures/mine/nearest/psld/em-3.png").stat().st_size > 1000


def test_an_unusable_shard_is_detected_and_only_this_shard_is_sampled_again(evaluated):
    """The evaluation removes the record of the range; the command of this range makes the missing
    shards."""
    project, name = evaluated, "00001.safetensors"
    value = results(project)["fd-classifier-train"].value
    (project / RESULT).unlink()
    folder = project / "samples/mine/psld/em-3"
    whole = files_below(folder)
    images = Shard.load(folder / name).images
    (folder / name).unlink()
    path = f"samples/mine/psld/em-3/{name}"
    refused(call(project, "evaluate_cell", CELL), 2, path, "no such file; sample it again")
    assert whole.keys() - files_below(folder).keys() == {name, "00000-00001.json"}

    (folder / "00000-00001.json").write_bytes(whole["00000-00001.json"])
    damaged = bytearray(whole[name])
    damaged[damaged.index(images.tobytes()) + 123] ^= 1
    (folder / name).write_bytes(damaged)
    refused(call(project, "evaluate_cell", CELL), 2, path, "damaged shard")
    assert not (project / RESULT).exists()
    assert whole.keys() - files_below(folder).keys() == {"00000-00001.json"}

    said = succeeded(call(project, "sample", CELL, "shards=2")).stdout.splitlines()
    assert [said[0], said[2]] == ["shard 0: kept", "shard 1: 10 images, NFE 3"]
    assert said[1].startswith("not kept: ")
    after = files_below(folder)
    assert after.keys() == whole.keys()
    for each in ("00000.safetensors", "00002.safetensors", "00002-00002.json"):
        assert after[each] == whole[each], each
    np.testing.assert_array_equal(Shard.load(folder / name).images, images)
    succeeded(call(project, "evaluate_cell", CELL))
    assert results(project)["fd-classifier-train"].value == value


def test_another_model_in_a_model_s_folder_is_neither_sampled_nor_measured(project, vp_sde_model):
    """This can happen with a wrong link or a restored backup."""
    folder, before = project / "models/mine/psld", files_below(project / "samples")
    whole = folder.rename(project / "own")
    folder.symlink_to(vp_sde_model)
    for command in ("sample", "evaluate_cell"):
        words = "models/mine/psld/manifest.json: does not match the grid in its process; put"
        refused(call(project, command, CELL), 2, words)
    folder.unlink()
    manifest = json.loads((whole.rename(folder) / "manifest.json").read_text())
    (project / "data/digits.digest").write_text("0" * 64)
    words = "psld/manifest.json: does not match the grid in its images (data/digits.digest)"
    refused(call(project, "sample", CELL), 2, words)
    imported = {"dataset_digest": None, "step": 7}  # as in the manifest of an imported model
    (folder / "manifest.json").write_text(sealed(manifest | imported))
    succeeded(call(project, "sample", CELL))
    assert files_below(project / "samples").items() >= before.items()


def test_shards_and_references_of_other_cells_are_refused(project):
    other = ("model=models/mine/psld", "sampler=em", "sampler.steps=3", "shard_size=10", "shards=3")
    succeeded(call(project, "sample", *other, "seed=1", "output=other"))
    refused(
        call(project, "evaluate_cell", CELL, "shards=other"), 2, "other/00000", "a different seed"
    )
    manifest = project / "models/mine/psld/manifest.json"
    content = json.loads(manifest.read_text()) | {"dataset_digest": "f" * 64}
    manifest.write_text(sealed(content))
    words = "fd-classifier-train/reference: made from dataset digits, but the model was trained"
    refused(call(project, "evaluate_cell", CELL), 2, words)
    assert not (project / RESULT).exists()


def test_results_of_other_records_are_named(evaluated):
    """Two result files are swapped, or belong to an earlier version of the grid."""
    own = succeeded(call(evaluated, "tabulate", "grid_name=mine")).stdout
    assert "Of other records" not in own
    write_yaml(evaluated / "configs/grid/mine.yaml", GRID | {"seed": 1})
    other = succeeded(call(evaluated, "tabulate", "grid_name=mine")).stdout
    assert f"because the grid has changed or files were moved: {RESULT}. Delete them" in other


def test_a_changed_cell_is_written_to_another_folder(made, tmp_path):
    before = files_below(made / "samples")
    succeeded(call(made, "sample", CELL, "sampler.steps=2", f"output={tmp_path}"))
    assert (tmp_path / "00000.safetensors").exists()
    assert files_below(made / "samples") == before

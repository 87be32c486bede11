"""A grid with only custom parts, outside of the checkout: Snakemake from data to page."""

import csv
import shutil
import sys
from pathlib import Path

import pytest

from tests.commands import call, run, succeeded
from tests.parts.own import HEUN, LAYERS, NETWORK, OBJECTIVES, edit, write
from tests.workflow.project import REPOSITORY, Project

SOURCE = """
import numpy as np

from psld.parts import Images, Source


class Waves(Source):
    count: int = 60

    def open(self):
        wave = np.sin(np.arange(8) + np.arange(self.count)[:, None])
        rows = np.uint8(127 * (wave + 1))[:, None].repeat(8, axis=1)
        pairs = [(each, 0) for each in rows] + [(each.T, 1) for each in rows]
        return Images(train=pairs[::2], test=pairs[1::2], class_names=("a", "b"))
"""
MEASURED = """
from psld.parts import Extractor, Measure


class MeanShift(Measure):
    word = "md"
    better = "smaller"

    def value(self, samples, reference):
        return (samples.mean(0) - reference.mean(0)).square().sum()


class Corners(Extractor):
    downloads = False

    def build(self, device):
        return lambda images: images.float()[:, :, ::7, ::7].flatten(1) / 255

    def digest(self):
        return "corners"
"""
DATASET = """
name: waves
channels: 1
image_size: 8
num_classes: 2
flip: false
filter: null
source: {kind: "mysource:Waves"}
"""
GRID = """
metric: "frechet@measured:Corners"
samples: 20
shard_size: 10
batch_size: 10
gallery: heun-5
defaults: [dataset=waves, process=psld, training.steps=8, training.checkpoint_every=4,
  training.preview_every=null, wandb.mode=disabled]
models:
  own: ["network=mynets:Mixer", "process=processes:SubVP", "training.objective=losses:Absolute",
    "training.optimizer=mine:Plain", "training.schedule=mine:Halves", training.schedule.every=3,
    "training.average=mine:Polyak", "logger=mine:Lines"]
  plain: [network=demo]
  denoiser: [network=demo, training.objective=denoiser]
  chain: {weights: denoiser, overrides: ["process=processes:Chain", process.order=3,
    "process.beta=processes:Warm"]}
samplers:
  heun: {overrides: ["sampler=mysampler:Heun", sampler.striding=edm], budget: sampler.steps}
  em: {overrides: [sampler=em], budget: sampler.steps}
tables:
  parts:
    title: Parts
    headings: [model]
    cell: {budget: 5}
    columns: [{label: heun, sampler: heun}, {label: em, sampler: em}]
    rows:
      - {label: [own], model: own}
      - {label: [plain], model: plain}
      - {label: [chain], model: chain}
  shifts:
    title: Shifts
    headings: [sampler]
    cell: {budget: 5, model: plain}
    columns: [{label: shift, metric: "measured:MeanShift@measured:Corners"}, {label: distance}]
    rows: [{label: [heun], sampler: heun}, {label: [em], sampler: em}]
"""

pytestmark = pytest.mark.slow


class Outside(Project):
    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, "PYTHONPATH": str(REPOSITORY)}


@pytest.fixture(scope="session")
def made(once) -> Outside:
    return Outside(once("outside", make) / "mine")


def make(outside: Path) -> None:
    """Create the project `mine` and run its grid."""
    folder = outside / "mine"
    succeeded(call(outside, "init", "mine"))
    (folder / "configs/grid/mine.yaml").unlink()
    (folder / "configs/dataset/mine.yaml").unlink()
    write(folder, mynets=NETWORK, mylayers=LAYERS, losses=OBJECTIVES, mysampler=HEUN)
    write(folder, mysource=SOURCE, measured=MEASURED)
    shutil.copy(Path(__file__).with_name("mine.py"), folder)
    shutil.copy(REPOSITORY / "docs/examples/processes.py", folder)
    (folder / "configs/dataset/waves.yaml").write_text(DATASET)
    (folder / "configs/grid/own.yaml").write_text(GRID)
    Outside(folder).run_in_one_process("own")


@pytest.fixture
def project(made, tmp_path) -> Outside:
    copy = Outside(tmp_path / "copy")
    shutil.copytree(made.folder, copy.folder, symlinks=True)
    return copy


def test_the_table_and_the_logger_contain_the_results(made):
    table = (made.folder / "results/tables/own/parts.md").read_text()
    assert "| own " in table.replace("**", "")
    assert "–" not in table.split("\n\n")[1]
    assert (made.folder / "log.txt").read_text() == "own 0 4\nown 0 8\nown 0 None\n"
    assert (made.folder / "results/own.html").exists()
    lines = list(csv.DictReader((made.folder / "results/tables/own/shifts.csv").open()))
    assert [line["metric"][:3] for line in lines] == ["md-", "fd-"] * 2
    assert {line["rank"] for line in lines[::2]} <= {"best", "perhaps best", "not best"}
    assert all(float(line["low"]) < float(line["ours"]) < float(line["high"]) for line in lines)


def test_an_edited_comment_reruns_nothing(project):
    for file in OWN:
        path = project.folder / f"{file}.py"
        path.write_text("# A comment.\n" + path.read_text())
    assert project.plan("own") == {}


@pytest.mark.parametrize(
    ("file", "old", "new", "again"),
    [
        ("mylayers", "padding=1", "padding='same'", {"train": 1, "sample": 2, "evaluate": 2}),
        ("mysampler", "+ slope) / 2", "+ slope) * 0.5", {"sample": 4, "evaluate": 3}),
        ("measured", "/ 255", "/ 256", {"reference": 1, "evaluate": 6}),
        ("processes", "0.04 * s for", "0.05 * s for", {"train": 1, "sample": 4, "evaluate": 4}),
    ],
)
def test_an_edit_reruns_the_jobs_that_depend_on_it(project, file, old, new, again):
    edit(project.folder / f"{file}.py", old, new)
    planned = project.plan("own")
    assert {rule: planned.get(rule) for rule in again} == again
    others = {"prepare", "train", "reference", "sample"} - again.keys()
    assert not others & planned.keys()


HOOK = """
import sys

class Hook:
    def find_spec(self, name, path, target=None):
        assert name not in {own!r}, name

sys.meta_path.insert(0, Hook())
from psld.commands.main import main
sys.argv = ["psld", *{words!r}]
main()
"""
OWN = (
    *("mynets", "mylayers", "losses", "mysampler", "mysource", "measured", "mine"),
    "processes",
)


@pytest.mark.parametrize(
    "words",
    [
        ("tabulate", "grid_name=own"),
        ("page", "grid_name=own", "output=x.html"),
        ("plan", "grid_name=own"),
        ("plan", "grid_name=own", "list=cells"),
        ("verify", "results/certificates/own.zip"),
    ],
)
def test_commands_that_only_read_records_import_no_part(project, words):
    code = HOOK.format(own=OWN, words=words)
    finished = run(project.folder, [sys.executable, "-c", code])
    assert finished.returncode in (0, 3), finished.stderr
    assert "AssertionError" not in finished.stderr


def test_a_certificate_is_verified_without_the_files(made, tmp_path):
    """Distances of custom features are recomputed; custom measures are not."""
    certificate = made.folder / "results/certificates/own.zip"
    shutil.copy(certificate, tmp_path)
    finished = call(tmp_path, "verify", "own.zip")
    assert finished.returncode == 3, finished.stderr
    assert "shifts: 2 not recomputed, 2 recomputed from features" in finished.stdout
    assert "10 numbers in total, 0 differences" in finished.stdout
    assert "2 numbers cannot be recomputed: " in finished.stderr

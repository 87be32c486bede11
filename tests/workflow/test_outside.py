"""The workflow outside a checkout: `psld init`, and the rules as a module."""

import contextlib
import os
import re

import pytest

from psld.commands.main import program, settings_of
from psld.config.locations import SHIPPED
from psld.grid.cache import load_grid
from tests.commands import call, fresh_modules, refused, succeeded
from tests.data.formats import encode, random_images, write_files
from tests.workflow.project import REPOSITORY, Project

CELL = {"prepare": 1, "start": 1, "reference": 1, "train": 1, "sample": 1, "evaluate": 1}
PICTURE = random_images(20, 24, 3)
OWN_RULE = """
rule summary:
    input:
        "results/tables/mine/mine-steps.csv",
    output:
        "summary.csv",
    shell:
        "cp {input} {output}"
"""
MODULE = """
from psld.config.locations import SHIPPED
module psld:
    snakefile: SHIPPED / "workflow/psld.smk"
use rule * from psld
"""


class Outside(Project):
    """A project that uses the installed package instead of a copy."""

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, "PYTHONPATH": os.environ.get("PYTHONPATH", "")}


@pytest.fixture
def mine(tmp_path) -> Outside:
    succeeded(call(tmp_path, "init", "mine"))
    return Outside(tmp_path / "mine")


@pytest.mark.slow
def test_init_writes_a_project_for_custom_images_and_rules(mine):
    mine.edit("Snakefile", "# Add custom rules here.", OWN_RULE)
    mine.edit("Snakefile", '"results/mine.html"', '"notes.txt", "results/mine.html"')
    (mine.folder / "notes.txt").touch()
    assert "page" in mine.run("--dry-run"), "the default rule may name any file"
    planned = mine.run("--dry-run", "mine/denoiser/few-4", "summary")
    jobs = dict(re.findall(r"^(train|sample|summary) +(\d)$", planned, re.MULTILINE))
    assert jobs == {"train": "1", "sample": "3", "summary": "1"}
    # A second workflow imports the rules as a module.
    (mine.folder / "other.smk").write_text(MODULE)
    result = "results/cells/mine/denoiser/few-4.json"
    assert mine.plan("--snakefile", "other.smk", result) == CELL


def test_number_of_training_steps_depends_on_the_speed_of_the_machine(tmp_path, monkeypatch):
    for step, steps, time in (
        *((3.6, 2000, "about 2 hours"), (1e-3, 5000, "about 5 sec")),
        (0.16, 3000, "about 8 minutes"),
    ):
        seconds = step / 64 - 1e-9
        monkeypatch.setattr("psld.models.build.seconds_per_image", lambda network, s=seconds: s)
        said = succeeded(call(tmp_path, "init", f"mine-{steps}")).stdout
        assert said.startswith(f"{steps:,} training steps take {time}")
    grid = next((tmp_path / "mine-3000/configs/grid").iterdir()).stem
    with contextlib.chdir(tmp_path / "mine-3000"):
        model = load_grid(grid).models["denoiser"].settings
    assert (model.training.steps, model.training.objective.kind) == (3000, "denoiser")


def test_interrupted_init_leaves_no_files_and_init_can_write_a_custom_part(tmp_path, monkeypatch):
    def interrupt(_: object) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr("psld.models.build.seconds_per_image", interrupt)
    assert call(tmp_path, "init", "mine").returncode == 130
    assert not list((tmp_path / "mine").iterdir())
    monkeypatch.setattr("psld.models.build.seconds_per_image", lambda network: 0.01)
    succeeded(call(tmp_path / "mine", "init", "."))
    made = {path.name for path in (tmp_path / "mine").iterdir()}
    assert made >= {"Snakefile", "README.md", "configs", "profiles"}
    assert not {name for name in made if name.startswith(".psld")} | made & {"mynet.py"}
    succeeded(call(tmp_path, "init", "own", "part=true"))
    page = (REPOSITORY / "docs/research.md").read_text()
    shown = re.search(r"```python\n(.*?)\n```", page, re.DOTALL)[1]
    assert shown in (tmp_path / "own/mynet.py").read_text(), "the page shows it"
    with contextlib.chdir(tmp_path / "own"), fresh_modules():
        train = program("train").command
        assert settings_of(train, ["network=plain"]).network.kind == "mynet:Plain"


@pytest.mark.slow
def test_missing_extractor_weights_stop_a_run_before_its_trainings(mine):
    """A dry run and a run without new evaluations are not stopped.

    A dry run also reports a dataset whose pictures have changed. It plans no job for this dataset,
    because a new dataset would invalidate everything.
    """
    write_files(mine.folder / "pictures", {f"{i}.png": encode(PICTURE) for i in range(20)})
    metric = (SHIPPED / "configs/metric/fid.yaml").read_text()
    path = mine.folder / "configs/metric/fid.yaml"
    path.parent.mkdir()
    path.write_text(metric.replace("kind: inception", "kind: inception\n  weights: absent.pth"))
    assert mine.plan("mine")["train"] == 1
    mine.run("data/mine.h5")
    said = mine.snakemake("mine")
    assert said.returncode == 2
    line = said.stdout.splitlines()[-1]
    assert line.startswith("error: no weights of Inception from absent.pth (")
    assert "use the metric fd-pixels or, with two classes or more, fd-classifier" in line
    assert mine.files("logs", "models") == [mine.folder / "logs/prepare/mine.log"]

    write_files(mine.folder / "pictures", {"new.png": encode(PICTURE)})
    output = mine.run("--dry-run", "data/mine.h5")
    said = r"changed since it was prepared \(20 pictures, .*; now 21 pictures, .*\)\. To use"
    assert re.search(f"{said} its current images: psld prepare dataset=mine replace=true", output)
    assert "Nothing to be done" in output
    succeeded(call(mine.folder, "prepare", "dataset=mine", "replace=true"))
    assert "since it was prepared" not in mine.run("--dry-run", "data/mine.h5")


def test_init_refuses_a_folder_with_files(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/note").write_text("keep")
    for name in ("mine", "new/x/../../mine"):
        refused(call(tmp_path, "init", name), 2, "mine: exists and is not an empty folder")
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "note"]

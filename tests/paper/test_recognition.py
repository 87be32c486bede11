"""The import of a folder of official checkpoints whose models are recognized."""

import contextlib
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from psld.grid.cache import load_grid
from psld.grid.cells import Grid
from psld.paper.checkpoints import Trained, described, shapes_of
from psld.paper.checkpoints import recognize as recognized
from psld.training.settings import TrainSettings
from psld.utils.files import read_json
from tests.commands import call, refused, succeeded
from tests.paper.test_import_guide import CONFIGS
from tests.workflow.project import GRID, REPOSITORY, Project

MODELS = {
    "first": ["process=vp-sde"],
    "second": ["process=cld"],
    "third": ["process=psld", "process.gamma=0.01"],
    "fourth": ["process=psld", "process.gamma=0.02"],
}


def write_official(path: Path, settings: Trained, **more: object) -> Path:
    """A file as Lightning writes it, with all shapes of this model but one number per tensor."""
    zero, shapes = torch.zeros(1), shapes_of(settings)
    prefixes = ("score_fn", "ema_score_fn") if isinstance(settings, TrainSettings) else ("clf_fn",)
    state = {f"{p}.{name}": zero.expand(shape) for p in prefixes for name, shape in shapes.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(
        {"state_dict": state, "epoch": 9, "global_step": settings.training.steps} | more, path
    )
    return path


def write_in_official_folders(grid: Grid, folder: Path) -> int:
    """Write each model and guide, under paths of the form of the authors', without its name."""
    records = [*grid.models.values(), *grid.guides.values()]
    for i, record in enumerate(records):
        gamma = getattr(record.settings.process, "gamma", None)
        process = "vpsde" if gamma is None else f"psld_hsm_gamma={gamma:g}_nu={4 + gamma:g}"
        write_official(
            folder / f"{i:02}/{process}_sfn=ncsnpp/epoch=9-loss=0.02.ckpt", record.settings
        )
    return len(records)


@pytest.fixture(scope="module")
def resolved(tmp_path_factory) -> Path:
    """The tests' grid with four models: one of each process, and two that differ in Γ alone."""
    folder = tmp_path_factory.mktemp("resolved")
    shutil.copytree(CONFIGS, folder / "configs")
    path = folder / GRID
    grid = yaml.safe_load(path.read_text()) | {"models": MODELS}
    grid["defaults"] += ["network.channel_multipliers=[1]", "network.attention_resolutions=[]"]
    for table in grid["tables"].values():
        table["rows"] = [{"label": [name], "model": name} for name in MODELS]
    path.write_text(yaml.safe_dump(grid, sort_keys=False))
    grid_in(folder)
    return folder


@pytest.fixture
def place(resolved, tmp_path) -> tuple[Path, Grid]:
    folder = shutil.copytree(resolved, tmp_path / "project")
    return folder, grid_in(folder)


def grid_in(folder: Path, name: str = "tiny") -> Grid:
    with contextlib.chdir(folder):
        return load_grid(name)


def recognize(folder: Path, *words: str) -> list[str]:
    """Import what is recognized; return the lines."""
    done = succeeded(call(folder, "import", "downloads", "grid_name=tiny", *words))
    return done.stdout.splitlines()


def checkpoints(grid: Grid) -> dict[str, str]:
    return {name: model.checkpoint for name, model in grid.models.items() if model.checkpoint}


def test_recognized_models_are_imported_in_place_of_training(place):
    folder, grid = place
    count = write_in_official_folders(grid, folder / "downloads")
    _, *lines, last = recognize(folder)
    assert last == f"The workflow imports {count} of {count} in place of training."
    for i, (name, line) in enumerate(zip(MODELS, lines, strict=True)):
        assert re.fullmatch(rf"downloads/{i:02}/\S+\.ckpt: model=tiny/{name}, step 3 of 3", line)
    assert checkpoints(grid_in(folder)).keys() == MODELS.keys()
    shutil.rmtree(folder / "models/tiny/second")
    assert "second" not in checkpoints(grid_in(folder)), "it is trained again"


def test_a_file_that_is_named_is_not_trained_over(place):
    folder, grid = place
    file = write_official(folder / "x.ckpt", grid.models["third"].settings)
    named = ("import_model", "x.ckpt", "model=tiny/fourth")
    succeeded(call(folder, *named))
    assert checkpoints(grid_in(folder)) == {"fourth": file.name}
    succeeded(call(folder, *named, "weights=online", "replace=true"))
    assert checkpoints(grid_in(folder)) == {}, "the workflow imports the moving average"
    succeeded(call(folder, *named, "replace=true"))
    assert list(checkpoints(grid_in(folder))) == ["fourth"]


def test_what_is_ambiguous_or_fits_nothing_is_told_and_the_others_are_taken(place):
    folder, grid = place
    first, second, third, _ = (model.settings for model in grid.models.values())
    write_official(folder / "downloads/first.ckpt", first, global_step=7)
    write_official(folder / "downloads/a/early.ckpt", second, global_step=7)
    write_official(folder / "downloads/a/last.ckpt", second)
    write_official(folder / "downloads/b/third.ckpt", third)
    write_official(folder / "downloads/c_gamma=0.5/gamma=0.3_nu=4.3/x.ckpt", third)
    other = third.model_copy(update={"network": wider(third)})
    write_official(folder / "downloads/d/x.ckpt", other)
    (folder / "downloads/d/cut.ckpt").write_bytes(b"PK\3\4")
    done = call(folder, "import", "downloads", "grid_name=tiny")
    assert done.returncode == 2
    assert done.stderr == "error: 5 of 7 checkpoints are not taken\n"
    lines = dict(line.split(": ", 1) for line in done.stdout.splitlines() if ": " in line)
    lines = {path.removeprefix("downloads/"): line for path, line in lines.items()}
    assert lines["first.ckpt"] == "model=tiny/first, step 7 of 3"
    assert lines["a/last.ckpt"] == "model=tiny/second, step 3 of 3"
    assert lines["a/early.ckpt"] == "model=tiny/second, step 7 of 3"
    other = "downloads/a/last.ckpt takes the place of downloads/a/early.ckpt, which was noted"
    assert lines["models/tiny/second"] == other
    assert (
        "fits model=tiny/third, model=tiny/fourth: Γ is not in the weights" in lines["b/third.ckpt"]
    )
    assert lines["c_gamma=0.5/gamma=0.3_nu=4.3/x.ckpt"].endswith("but its path has gamma=0.3")
    assert lines["d/x.ckpt"] == "its layers fit no model and no guide of the grid"
    assert "damaged" in lines["d/cut.ckpt"]
    assert checkpoints(grid_in(folder)) == {
        "first": "downloads/first.ckpt",
        "second": "downloads/a/last.ckpt",
    }


def test_a_later_import_takes_the_place_of_a_noted_checkpoint_only_if_it_is_nearer(place):
    folder, grid = place
    settings = grid.models["second"].settings
    for name, step in (("noted", 2), ("far", 1), ("same", 2), ("near", 3)):
        write_official(folder / f"{name}.ckpt", settings, global_step=step, epoch=step + len(name))
    succeeded(call(folder, "import", "noted.ckpt", "grid_name=tiny"))
    for name, near in (("far", "nearer"), ("same", "as near")):
        words = f"but noted.ckpt is {near} to its 3 steps; replace=true replaces it"
        refused(call(folder, "import", f"{name}.ckpt", "grid_name=tiny"), 2, words)
        assert checkpoints(grid_in(folder)) == {"second": "noted.ckpt"}
    for name, *more in (("near",), ("far", "replace=true")):
        done = succeeded(call(folder, "import", f"{name}.ckpt", "grid_name=tiny", *more))
        assert "models/tiny/second: " in done.stdout
        assert f"{name}.ckpt takes the place of n" in done.stdout
        assert checkpoints(grid_in(folder)) == {"second": f"{name}.ckpt"}


@pytest.mark.parametrize(
    ("dataset", "step", "warnings"),
    [
        ("digits", 50, []),
        ("digits", 49, ["less than half of the training"]),
        ("celeba64", 100, ["celeba64/train_uncond_psld.sh trains Γ = 0.25 under this name"]),
    ],
)
def test_what_may_be_taken_for_a_wrong_model_is_warned_of(place, dataset, step, warnings):
    """A file of an early step, and one that an official script has named after another Γ."""
    folder, grid = place
    settings = grid.models["third"].settings  # Γ = 0.01
    settings = settings.model_copy(
        update={
            "dataset": settings.dataset.model_copy(update={"name": dataset}),
            "training": settings.training.model_copy(update={"steps": 100}),
        }
    )
    path = write_official(folder / "gamma=0.01/x.ckpt", settings, global_step=step)
    file = recognized(path, [(shapes_of(settings), settings)])
    text, *found = described(file).split("; warning: ")
    assert text == f"model=tiny/third, step {step} of 100"
    assert len(found) == len(warnings)
    assert all(words in line for words, line in zip(warnings, found, strict=True))


def wider(settings: TrainSettings) -> object:
    """A network that no model of the grid has."""
    return settings.network.model_copy(update={"base_channels": 2 * settings.network.base_channels})


def test_one_line_says_why_nothing_is_taken(place):
    folder, grid = place
    write_official(folder / "two/x.ckpt", grid.models["third"].settings)
    shutil.copytree(folder / "two", folder / "same/a")
    shutil.copytree(folder / "two", folder / "same/b")
    (folder / "cut.ckpt").write_bytes((folder / "two/x.ckpt").read_bytes()[:-100])
    path = write_official(folder / "nan.ckpt", grid.models["second"].settings)
    content = torch.load(path)
    broken = {name: weight * torch.nan for name, weight in content["state_dict"].items()}
    torch.save(content | {"state_dict": broken}, path)
    for name in ("empty", "latin"):
        (folder / name).mkdir()
    (folder / "latin/\udce4.ckpt").touch()  # a byte that is not UTF-8
    fits = "fits model=tiny/third, model=tiny/fourth: Γ is not in the weights"
    for file, *words in (
        ("two/x.ckpt", "two/x.ckpt", fits, "psld import_model FILE model=GRID/MODEL"),
        ("cut.ckpt", "cut.ckpt: not a readable checkpoint"),
        ("nan.ckpt", "nan.ckpt: NaN or infinity in all_modules."),
        ("none.ckpt", "none.ckpt: no such file"),
        ("empty", "empty: no *.ckpt in this folder"),
        ("latin", r"latin/\udce4.ckpt: an empty file"),
        ("same", "2 of 2 checkpoints are not taken"),
    ):
        refused(call(folder, "import", file, "grid_name=tiny"), 2, *words)
    assert not (folder / "models").exists()


def test_weights_of_another_origin_stay_unless_they_may_be_replaced(place):
    folder, grid = place
    settings = grid.models["first"].settings
    write_official(folder / "earlier.ckpt", settings, epoch=3)
    succeeded(call(folder, "import_model", "earlier.ckpt", "model=tiny/first"))
    before = (folder / "models/tiny/first/manifest.json").read_bytes()
    file = write_official(folder / "downloads/x.ckpt", settings)
    for words in (
        ("import", "downloads", "grid_name=tiny"),
        ("import_model", "downloads/x.ckpt", "model=tiny/first"),
    ):
        complaint = "models/tiny/first: has weights from the checkpoint earlier.ckpt; replace=true"
        refused(call(folder, *words), 2, complaint)
        assert (folder / "models/tiny/first/manifest.json").read_bytes() == before
    recognize(folder, "replace=true")
    assert checkpoints(grid_in(folder)) == {"first": "downloads/x.ckpt"}
    assert [path.name for path in (folder / "models/tiny/first").iterdir()] == ["checkpoint.txt"]
    succeeded(call(folder, "import_model", str(file), "model=tiny/first"))
    recognize(folder)
    assert read_json(folder / "models/tiny/first/manifest.json")["imported"]["file"] == "x.ckpt"


@pytest.mark.slow
def test_every_model_of_the_paper_is_recognized_and_no_table_trains(tmp_path):
    project = Project.create(tmp_path / "project")
    shutil.copy(REPOSITORY / "configs/grid/paper.yaml", project.folder / "configs/grid")
    grid = grid_in(project.folder, "paper")
    count = write_in_official_folders(grid, project.folder / "downloads")
    done = succeeded(call(project.folder, "import", "downloads"))
    words = re.findall(r"(\w+)=paper/(\S+), step", done.stdout, re.MULTILINE)
    assert words == [*(("model", n) for n in grid.models), *(("guide", n) for n in grid.guides)]
    assert len(words) == count
    whole = project.plan("paper")
    assert (whole["import_model"], whole["import_guide"]) == (len(grid.models), len(grid.guides))
    assert not {"train", "train_guide"} & whole.keys()

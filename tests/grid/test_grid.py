"""Grid files: the cells of their entries, the composed settings, and errors."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from psld.config.compose import compose_content
from psld.config.locations import CONFIGS
from psld.config.settings import parse
from psld.grid import composing
from psld.grid.loading import expand_guide, expand_model, load_grid
from psld.grid.resolved import Grid
from psld.grid.schema import GridFile
from psld.utils.errors import UserError

GRIDS = sorted(path.stem for path in (CONFIGS / "grid").glob("*.yaml"))

CONTENT: dict[str, Any] = {
    "defaults": ["dataset=digits", "network=demo", "training=demo", "training.steps=7"],
    "metric": "fd-classifier",
    "samples": 100,
    "shard_size": 30,
    "batch_size": 10,
    "gallery": "em-10",
    "models": {
        "vp-sde": ["process=vp-sde"],
        "psld": ["process=psld", "training.steps=9"],
    },
    "samplers": {
        "em": {"overrides": ["sampler=em"], "budget": "sampler.steps"},
        "em-quadratic": {
            "overrides": ["sampler=em", "sampler.striding=quadratic"],
            "budget": "sampler.steps",
        },
        "rk45": {"overrides": ["sampler=rk45"], "budget": "sampler.tolerance"},
    },
    "tables": {
        "steps": {
            "title": "Steps",
            "headings": ["sampler", "model"],
            "cell": {"sampler": "em", "budget": 10},
            "columns": [{"label": "10"}, {"label": "20", "budget": 20}],
            "rows": [
                {"label": ["EM", "PSLD"], "model": "psld"},
                {"label": ["EM-QS", "PSLD"], "model": "psld", "sampler": "em-quadratic"},
                {"label": ["EM", "another paper's"], "literature": True, "paper": [3.0, 2.0]},
            ],
        },
        "tolerance": {
            "title": "Tolerance",
            "headings": ["model"],
            "columns": [
                {"label": "few", "samples": 50},
                {"label": "fid", "show": "value"},
                {"label": "NFE", "show": "nfe"},
            ],
            "rows": [
                {"label": ["VP-SDE"], "model": "vp-sde", "sampler": "rk45", "budget": "1e-2"},
                {"label": ["PSLD"], "model": "psld", "sampler": "em", "budget": 10},
            ],
        },
    },
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """CONTENT with one value, named by its keys, replaced."""
    content = copy.deepcopy(CONTENT)
    *parents, last = path.split("/")
    place = content
    for key in parents:
        place = place[int(key) if isinstance(place, list) else key]
    place[int(last) if isinstance(place, list) else last] = value
    return content


@pytest.fixture
def configs(tmp_path, monkeypatch) -> Path:
    """The user's own folder of configs, with no grid yet; the cache starts empty."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs" / "grid").mkdir(parents=True)
    return tmp_path / "configs"


def load(configs: Path, content: dict[str, Any] = CONTENT) -> Grid:
    (configs / "grid" / "mine.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return load_grid("mine")


def table_of(content: dict[str, Any], table: str) -> list[list[tuple[str, int] | None]]:
    """The cell and the number of samples behind each entry of a table; nothing is composed."""
    file = parse(GridFile, content, where="mine")
    return [[e and (e.cell, e.samples) for e in row] for row in file.evaluations_by_table[table]]


def test_table_row_and_column_make_an_entry_and_the_last_prevails():
    assert table_of(CONTENT, "steps") == [
        [("psld/em-10", 100), ("psld/em-20", 100)],
        [("psld/em-quadratic-10", 100), ("psld/em-quadratic-20", 100)],
        [None, None],
    ]
    few, all_of_them = ("vp-sde/rk45-1e-2", 50), ("vp-sde/rk45-1e-2", 100)
    assert table_of(CONTENT, "tolerance")[0] == [few, all_of_them, all_of_them]


def test_fields_of_a_row_complete_names():
    content = changed("tables/steps/columns/1", {"label": "QS", "sampler": "em{kind}"})
    content["tables"]["steps"]["rows"][0]["fields"] = {"kind": "-quadratic"}
    content["tables"]["steps"]["rows"].pop(1)
    assert table_of(content, "steps")[0] == [("psld/em-10", 100), ("psld/em-quadratic-10", 100)]


def test_cells_come_in_the_order_of_the_tables_each_once(configs):
    grid = load(configs)
    assert grid.cells == [
        "psld/em-10",
        "psld/em-20",
        "psld/em-quadratic-10",
        "psld/em-quadratic-20",
        "vp-sde/rk45-1e-2",
    ]
    assert len(set(grid.evaluations)) == len(grid.evaluations) == 7
    of_cell = grid.evaluations_by_cell["psld/em-10"]
    assert [e.samples for e in of_cell] == [100, 50], "in the order of the tables"
    assert grid.shards["psld/em-10"] == 4, "the many samples hold the few"
    assert grid.shards["psld/em-20"] == 4
    assert grid.shards["vp-sde/em-10"] == 1, "it is shown, and stands in no table"
    assert list(grid.metrics) == ["fd-classifier"]
    assert list(grid.datasets) == ["digits"]


def test_a_sampler_is_its_family_completed_by_the_budget(configs):
    samplers = load(configs).samplers
    assert samplers["em-20"].settings["steps"] == 20
    assert samplers["em-20"].settings["striding"] == "uniform"
    assert samplers["em-quadratic-20"].settings["striding"] == "quadratic"
    assert samplers["rk45-1e-2"].settings["tolerance"] == 0.01
    assert samplers["rk45-1e-2"].overrides == ("sampler=rk45", "sampler.tolerance=1e-2")


def test_the_family_with_the_longest_name_is_meant():
    file = parse(GridFile, CONTENT, where="mine")
    assert file.family_of("em-quadratic-10") == "em-quadratic"
    assert file.family_of("em-10") == "em"


def test_a_model_s_own_overrides_come_after_those_of_all(configs):
    models = load(configs).models
    assert models["vp-sde"].settings["training"]["steps"] == 7
    assert models["psld"].settings["training"]["steps"] == 9
    assert models["psld"].overrides[:4] == tuple(CONTENT["defaults"])
    assert tuple(models[name].settings["process"]["kind"] for name in ("vp-sde", "psld")) == (
        "vp-sde",
        "psld",
    )
    assert (models["psld"].dataset, models["psld"].checkpoint) == ("digits", None)


def test_a_model_may_name_an_official_checkpoint(configs):
    entry = {"overrides": ["process=psld"], "checkpoint": "official.ckpt"}
    models = load(configs, changed("models/psld", entry)).models
    assert models["psld"].checkpoint == "official.ckpt"


def test_the_cache_answers_until_a_config_changes(configs, monkeypatch):
    first = load(configs)

    def refuse(*_):
        raise AssertionError("composed although nothing has changed")

    with monkeypatch.context() as patch:
        patch.setattr(composing, "compose_content", refuse)
        assert load(configs) == first
    training = configs / "training" / "demo.yaml"
    training.parent.mkdir()
    shipped = (CONFIGS / "training" / "demo.yaml").read_text()
    training.write_text(shipped.replace("seed: 0", "seed: 3"))
    assert load(configs).models["psld"].settings["training"]["seed"] == 3


def test_a_damaged_cache_is_made_again(configs):
    whole = load(configs)
    [cached] = Path(".cache/grids").iterdir()
    size = cached.stat().st_size
    for damage in (b"", cached.read_bytes()[: size // 2], b"x" * size):
        cached.write_bytes(damage)
        assert load(configs) == whole
        assert cached.stat().st_size == size


@pytest.fixture
def compositions(monkeypatch) -> list[str]:
    """Command and place of all that is composed from now on, as in a new process."""
    composed = []

    def note(name: str, overrides: Sequence[str], where: str) -> dict[str, Any]:
        composed.append(f"{name} {where.rpartition(': ')[2]}")
        return compose_content(name, overrides, where)

    monkeypatch.setattr(composing, "compose_content", note)
    monkeypatch.setattr(composing, "_composed", {})
    return composed


def test_a_new_model_is_the_only_one_that_is_composed(configs, compositions):
    load(configs)
    assert {"train models.vp-sde", "train models.psld", "sample sampler em-10"} <= set(compositions)
    compositions.clear()
    more = load(configs, changed("models/cld", ["process=cld"]))
    assert compositions == ["train models.cld"]
    compositions.clear()
    assert load(configs, changed("models/cld", ["process=cld", "training.seed=3"])) != more
    assert compositions == ["train models.cld"]


def test_what_stays_in_a_grid_is_not_composed_for_a_new_table_or_budget(configs, compositions):
    load(configs)
    compositions.clear()
    load(configs, changed("tables/steps/columns/1", {"label": "30", "budget": 30}))
    assert sorted(compositions) == ["sample sampler em-30", "sample sampler em-quadratic-30"]


def test_every_thing_is_composed_again_for_another_config(configs, compositions):
    load(configs)
    everything = sorted(compositions)
    assert len(set(everything)) == len(everything), "each once"
    compositions.clear()
    (configs / "network").mkdir()
    (configs / "network" / "mine.yaml").write_text("kind: ncsnpp")
    load(configs)
    assert sorted(compositions) == everything


def test_grids_of_one_process_share_what_is_composed(configs, compositions):
    load(configs)
    compositions.clear()
    (configs / "grid" / "other.yaml").write_text(yaml.safe_dump(CONTENT))
    assert load_grid("other").models == load(configs).models
    assert compositions == []


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        ("smaples", 3, "unknown key smaples"),
        ("samples", 0, "samples: Input should be greater than or equal to 1"),
        ("metric", "fd", "metric fd: metric=fd: no such metric; there are: .*fd-classifier,"),
        ("gallery", "em-11", "gallery: no cell has the sampler 'em-11'; there are: em-10"),
        ("models/psld", ["process=psld", "process.gama=1"], "psld: no setting .* process.gama"),
        ("models/psld", ["process=psld", "process.gamma=-1"], "models.psld: process.gamma"),
        ("models/psld", ["process"], "models.psld: Error parsing override 'process'"),
        ("models/psld", ["dataset.num_classes=0"], "not prepared as configs/dataset/digits.yaml"),
        ("models/psld", ["network.channel_multipliers=[1,1,1,1,1]"], "models.psld: .*image_size"),
        ("samplers/em/budget", "sampler.stepps", "sampler em-10: no setting .* sampler.stepps"),
        ("samplers/em/overrides", ["sampler=emm"], "sampler em-10: .*conjugate, em, gddim"),
        ("tables/steps/cell", {"sampler": "em"}, r"row \('EM', 'PSLD'\): no budget for 10"),
        ("tables/steps/rows/0/model", "pdls", "names the model 'pdls'; there are: vp-sde, psld"),
        ("tables/steps/rows/0/model", "{name}", "placeholder that is not among the fields"),
        ("tables/steps/cell/sampler", "ems", "unknown sampler 'ems'; there are: em, em-quadratic"),
        ("tables/steps/rows/0/paper", [1.0], "tables.steps: row .* needs 2 paper values"),
        ("tables/steps/columns/1/label", "10", "need different names, not sampler, model, 10, 10"),
        ("tables/steps/headings", ["metric", "model"], "headings: metric is what the CSV calls"),
        ("tables/steps/headings", ["model"], "tables.steps: row .* needs 1 labels"),
        ("tables/tolerance/columns/0/show", "value and nfe", "tables.tolerance.columns.0.show"),
        ("tables/tolerance/rows/0/budget", "7", "rk45-7: sampler.tolerance: .* less than 1"),
        ("tables/steps/columns/0/budget", "1 0", "sampler 'em-1 0': a name begins with a letter"),
    ],
)  # fmt: skip
def test_a_wrong_grid_is_refused_in_one_line(configs, path, value, complaint):
    with pytest.raises(UserError, match=complaint) as refused:
        load(configs, changed(path, value))
    message = str(refused.value)
    assert message.startswith(f"{configs}/grid/mine.yaml: ")
    assert "\n" not in message
    assert not Path(".cache").exists()


AWKWARD = (
    *("two words", "$(id)", "`id`", "a;b", "a&b", "it's", 'a"b', "a\nb", "a\n", "a/b", "ä", ".."),
    *("-a", "a\\b", "a{b}c", "a=b", "a,b", "a+b", "*", "", "10", "1e-3", "null", "True"),
)


@pytest.mark.parametrize("kind", ["models", "guides", "samplers", "tables", "figures"])
def test_no_shell_and_no_path_gets_an_awkward_name(kind):
    table, sampler = CONTENT["tables"]["steps"], {"overrides": [], "budget": "sampler.steps"}
    own = {"figures": "psld/em-10", "tables": table, "samplers": sampler}
    for name in AWKWARD:
        named = {**CONTENT.get(kind, {}), name: own.get(kind, [])}
        refusal = f"{kind[:-1]} .*: a name begins with a letter"
        with pytest.raises(UserError, match=refusal) as refused:
            parse(GridFile, CONTENT | {kind: named}, "mine.yaml")
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("where", ["tables/steps/rows/0", "gallery"])
def test_sscs_needs_momentum(configs, where):
    """Refused for a cell of a table, and for the gallery, which shows every model."""
    content = changed("samplers/sscs", {"overrides": ["sampler=sscs"], "budget": "sampler.steps"})
    if where == "gallery":
        content["tables"]["steps"]["rows"][0]["sampler"] = "sscs"
        content["gallery"] = "sscs-10"
    else:
        content["tables"]["steps"]["rows"][0].update(sampler="sscs", model="vp-sde")
    with pytest.raises(UserError, match="vp-sde/sscs-10: sscs needs a process with momentum"):
        load(configs, content)


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "models:\n  a: [\n", "a: 1\n b"])
def test_what_is_no_grid_is_refused_in_one_line(configs, text):
    (configs / "grid" / "mine.yaml").write_text(text)
    with pytest.raises(UserError, match=f"^{configs}/grid/mine.yaml: ") as refused:
        load_grid("mine")
    assert "\n" not in str(refused.value)


def test_an_unknown_grid_is_refused_with_those_that_are_there(configs):
    load(configs)
    with pytest.raises(
        UserError, match=r"other\.yaml: no such grid; there are: demo, fast, mine, paper, rehearsal"
    ):
        load_grid("other")


def test_a_figure_may_have_parts(configs):
    figures = {"whole": {"a": "vp-sde/em-10", "b": "vp-sde/em-20"}, "alone": "vp-sde/em-10"}
    file = load(configs, changed("figures", figures)).file
    assert file.pictures == {
        "whole-a": "vp-sde/em-10",
        "whole-b": "vp-sde/em-20",
        "alone": "vp-sde/em-10",
    }
    assert file.figure_targets == {
        "whole": ["whole-a", "whole-b"],
        **{picture: [picture] for picture in file.pictures},
    }


@pytest.mark.parametrize(
    ("figures", "complaint"),
    [
        ({"a": {"b": "vp-sde/em-10"}, "a-b": "vp-sde/em-20"}, "figures: two of them.* a-b"),
        ({"a": {}}, "figures.a: "),
        ({"a": 3}, "figures.a: "),
        (
            {"a": {"b": "vp-sde/unknown-10"}},
            "figures.a.b: 'vp-sde/unknown-10' is not MODEL/SAMPLER",
        ),
        ({"a": {"b": "unknown/em-10"}}, "figures.a.b names the model"),
        ({"a": "unknown/em-10"}, "figures.a names the model"),
    ],
)
def test_what_is_no_figure_is_refused_by_its_key(configs, figures, complaint):
    with pytest.raises(UserError, match=complaint):
        load(configs, changed("figures", figures))


@pytest.mark.parametrize(
    ("samples", "ranges"),
    [
        (None, [(0, 2), (3, 5), (6, 6)]),
        (200, [(0, 2), (3, 5), (6, 6)]),
        (180, [(0, 2), (3, 5)]),
        (91, [(0, 2), (3, 5)]),
        (90, [(0, 2)]),
        (1, [(0, 2)]),
    ],
)
def test_jobs_make_ranges_of_shards(configs, samples, ranges):
    """Seven shards of 30 samples; those that hold fewer samples are the same files."""
    grid = load(configs, changed("samples", 200) | {"shards_per_job": 3})
    assert grid.shards["psld/em-10"] == 7
    assert grid.ranges_of("psld/em-10", samples) == ranges


def test_the_shards_of_a_job_change_no_settings_of_a_cell(configs):
    few, many = (load(configs, CONTENT | {"shards_per_job": n}) for n in (1, 100))
    assert len(few.ranges_of("psld/em-10")) == 4
    assert many.ranges_of("psld/em-10") == [(0, 3)]
    assert few.samplers == many.samplers
    assert few.shards == many.shards


def test_a_model_and_a_guide_of_a_grid_stand_for_their_overrides(configs):
    content = CONTENT | {"guides": {"g": ["dataset=digits", "process=cld"]}}
    load(configs, content)
    assert expand_model(["training.steps=3", "model=mine/psld"]) == [
        *CONTENT["defaults"],
        *CONTENT["models"]["psld"],
        *("grid_name=mine", "name=psld", "training.steps=3"),
    ]
    own = ["dataset=digits", "process=cld", "grid_name=mine", "name=g"]
    assert expand_guide(["guide=mine/g"]) == own
    assert expand_model(["training.steps=3"]) == ["training.steps=3"]
    with pytest.raises(UserError, match=r"mine/other: no such model .* vp-sde, psld"):
        expand_model(["model=mine/other"])
    with pytest.raises(UserError, match=r"mine/psld: no such guide .*: g$"):
        expand_guide(["guide=mine/psld"])


@pytest.mark.parametrize("name", GRIDS)
def test_the_project_s_own_grids_load(name, folder, monkeypatch):
    monkeypatch.chdir(folder)
    grid = load_grid(name)
    assert {evaluation.model for evaluation in grid.evaluations} <= set(grid.models)
    shown = {cell.split("/")[1] for cell in grid.file.pictures.values()}
    assert {evaluation.sampler for evaluation in grid.evaluations} | shown == set(grid.samplers)
    assert all(any(any(row) for row in grid.file.evaluations_by_table[t]) for t in grid.file.tables)

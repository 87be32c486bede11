"""Models that are other averages of a training."""

import re

import pytest

from psld.commands.main import program, settings_of
from psld.report.plan import work_by_network
from tests.grid.mine import load, refusal, with_models

SHORT = {"average_of": "base", "average": {"kind": "ema", "decay": 0.5}}
MODELS = {"base": ["process=psld"], "short": SHORT}


def test_it_is_the_model_of_a_training_with_another_average(configs):
    content = with_models(MODELS | {"alone": ["process=psld", "training.ema_decay=0.5"]})
    grid = load(configs, content | {"seeds": {"training": [3, 7]}})
    models = grid.models
    for seed in ("", "-seed7"):
        base, short = models[f"base{seed}"], models[f"short{seed}"]
        assert short.digest == models[f"alone{seed}"].digest != base.digest
        assert short.reads == [base.manifest]
        assert base.reads == []
        kept = base.settings.averages
        assert [kept[name].decay for name in kept] == [0.5]
        made = base.settings.of_average(f"short{seed}")
        assert made.run_name("x") == short.settings.run_name("x")
    words = ["model=mine/short", "training.micro_batch=1"]
    by_hand = settings_of(program("train").command, words).model()
    assert by_hand.identity() == models["short"].settings.model().identity()
    alone = load(configs, with_models({"base": [*MODELS["base"], "training.seed=3"]}))
    assert alone.models["base"].digest == models["base"].digest


def test_it_keeps_no_word_of_the_average_of_its_training(configs):
    words = ["process=psld", "training.average=ema", "training.average.decay=0.9"]
    grid = load(configs, with_models(MODELS | {"base": words}))
    decays = [grid.models[name].settings.training.averaging.decay for name in ("base", "short")]
    assert decays == [0.9, 0.5]


def test_it_costs_no_training(configs):
    grids = (load(configs, with_models(m)) for m in (MODELS, {"base": MODELS["base"]}))
    both, one = (sum(w.training_images for w in work_by_network(grid).values()) for grid in grids)
    assert both == one


def test_another_grid_takes_it_as_it_is(configs):
    short = load(configs, with_models(MODELS)).models["short"]
    (configs / "grid/other.yaml").write_text((configs / "grid/mine.yaml").read_text())
    taken = load(configs, with_models({"short": {"of": "other"}})).models["short"]
    assert (taken.digest, taken.folder) == (short.digest, "models/other/short")


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"short": SHORT | {"average_of": "bas"}}, "no trained model 'bas'; there are: base"),
        ({"other": SHORT | {"average_of": "short"}}, "no trained model 'short'"),
        ({"short": {"average_of": "base"}}, "models.short: give both average_of and average"),
        ({"short": SHORT | {"overrides": ["training.seed=1"]}}, "average_of: allows no other key"),
        ({"short": SHORT | {"average": {"kind": "emma"}}}, "averages.short: no average 'emma'"),
        (
            {"short": SHORT | {"average": {"kind": "ema", "decay": 2}}},
            "averages.short.decay",
        ),
        (
            {"base": {"starts_from": "short", "overrides": MODELS["base"]}},
            "circular reference: base → short",
        ),
    ],
)
def test_what_is_none_is_refused(configs, entries, said):
    refusal(configs, with_models(MODELS | entries), re.escape(said))

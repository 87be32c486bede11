"""Models of a grid that start from another one: their order, identity, inputs and errors."""

import re

import pytest

from psld.commands.main import program, settings_of
from psld.training.init import with_sources
from psld.utils.errors import UserError
from psld.utils.files import digest_of
from tests.grid.mine import load, refusal, with_models
from tests.results import write_model_manifest

TUNED = {"starts_from": "base", "overrides": ["process=psld", "training.steps=3"]}
MODELS = {"tuned": TUNED, "base": ["process=psld"]}


def test_the_identity_has_the_record_of_the_source(configs):
    models = load(configs, with_models(MODELS)).models
    assert models["tuned"].settings.model().identity()["init"] == {
        "model": {"digest": models["base"].digest},
        "take": "all",
    }
    assert models["tuned"].reads == ["models/mine/base/manifest.json"]
    assert models["base"].reads == []
    other = load(configs, with_models(MODELS | {"base": ["process=psld", "training.seed=1"]}))
    assert other.models["tuned"].digest != models["tuned"].digest
    parts = {"starts_from": "base", "overrides": [*TUNED["overrides"], "init.take=fitting"]}
    fitting = load(configs, with_models(MODELS | {"tuned": parts})).models["tuned"]
    assert fitting.settings.init.take == "fitting"
    assert fitting.digest != models["tuned"].digest


def test_chains_seeds_shared_weights_and_other_grids(configs):
    denoiser = ["process=psld", "training.objective=denoiser"]
    models = MODELS | {
        "base": denoiser,
        "tuned": {"starts_from": "as-cld", "overrides": denoiser},
        "last": {"starts_from": "tuned", "overrides": [*denoiser, "training.steps=2"]},
        "as-cld": {"weights": "base", "overrides": ["process=cld"]},
    }
    grid = load(configs, with_models(models) | {"seeds": {"training": [0, 7]}})
    sources = {name: each.settings.init for name, each in grid.models.items()}
    named = {name: init and init.model.name for name, init in sources.items()}
    assert named["tuned-seed7"] == "models/mine/base-seed7"
    assert named["last-seed7"] == "models/mine/tuned-seed7"
    assert named["last"] == "models/mine/tuned"
    assert sources["last"].model.digest == grid.models["tuned"].digest
    (configs / "grid/other.yaml").write_text((configs / "grid/mine.yaml").read_text())
    again = load(configs, with_models({"last": {"of": "other"}, "psld": ["process=psld"]}))
    assert again.models["last"].digest == grid.models["last"].digest
    assert again.models["last"].reads == ["models/other/tuned/manifest.json"]


def test_a_training_that_is_changed_by_hand_starts_from_the_same_model(configs):
    """And is the same training, if nothing that decides is changed."""
    load(configs, with_models(MODELS))
    train = program("train").command
    grid, same, other = (
        settings_of(train, ["model=mine/tuned", *words])
        for words in ([], ["training.micro_batch=8"], ["init.model=models/mine/base"])
    )
    assert same.init == grid.init
    assert same.identity() == grid.identity() != other.identity()
    assert other.init.model.name == grid.init.model.name == "models/mine/base"


def test_what_changed_is_noticed_at_any_depth(configs):
    """base → tuned → last, of which base is trained again."""
    last = TUNED | {"starts_from": "tuned"}
    grid = load(configs, with_models(MODELS | {"last": last}))
    models = grid.models
    for name in ("base", "tuned", "last"):
        settings = with_sources(models[name].settings).model()
        weights = {"settings": settings, "weights_sha256": digest_of(name)}
        write_model_manifest(configs.parent, grid, name, **weights)
    models["last"].check()
    run = with_sources(models["tuned"].settings).run_name("d")
    write_model_manifest(configs.parent, grid, "base", weights_sha256=digest_of("again"))
    assert with_sources(models["tuned"].settings).run_name("d") != run
    with pytest.raises(UserError, match=r"its source \(models/mine/base has changed\);"):
        models["last"].check()


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"base": TUNED | {"starts_from": "tuned"}}, "circular reference: tuned → base → tuned"),
        ({"tuned": TUNED | {"starts_from": "bas"}}, "unknown model 'bas'; there are: tuned, base"),
        ({"tuned": TUNED | {"checkpoint": "x.ckpt"}}, "starts_from: only for a model that this"),
        ({"tuned": [*TUNED["overrides"], "init.model=x/y"]}, "models.tuned: no model 'x/y' in"),
        (
            {"base": ["process=psld", "training.objective=denoiser"]},
            "models.tuned: init.model: its training.objective is denoiser, not epsilon; init.take=",
        ),
        (
            {"base": ["process=psld", "training.label_dropout=0.1"]},
            "models.tuned: init.model: its number of classes is 10, not 0; init.take=fitting",
        ),
    ],
)
def test_bad_sources(configs, entries, said):
    refusal(configs, with_models(MODELS | entries), re.escape(said))

"""Several models with the weights of one denoiser: one training, and cells of their own."""

import pytest

from psld.utils.errors import UserError
from tests.grid.mine import load, with_models, workflow_of

MODELS = {
    "psld": ["process=psld"],
    "one": ["process=psld", "process.gamma=0.02", "training.objective=denoiser"],
    "one-cld": {"weights": "one", "overrides": ["process=cld"]},
    "one-vp": {"weights": "one", "overrides": ["process=vp-sde"]},
}


def test_one_training_serves_all(configs):
    grid = load(configs, with_models(MODELS))
    one, cld = grid.models["one"], grid.models["one-cld"]
    assert (cld.name, cld.folder, cld.digest) == ("one-cld", one.folder, one.digest)
    assert cld.settings.process.gamma == 0
    workflow = workflow_of({"mine": grid})
    assert workflow.pattern("models", imported=False) == r"mine/psld|mine/one"
    sampled = {name: grid.cells[f"{name}/em-10"] for name in MODELS}
    assert sampled["one-vp"].model.manifest == "models/mine/one/manifest.json"
    assert len({cell.digest for cell in sampled.values()}) == len(MODELS)
    assert len({cell.folder for cell in sampled.values()}) == len(MODELS)
    for job in (sampled["one-cld"].sample_job, sampled["one-cld"].evaluate_job):
        assert job.settings.process == cld.settings.process
    assert sampled["psld"].sample_job.settings.process is None

    # Seeds of a training are shared one by one. Another process changes its own cells alone.
    other = {"weights": "one", "overrides": ["process=psld", "process.gamma=0.3"]}
    seeds = {"seeds": {"training": [0, 7]}}
    after = load(configs, with_models(MODELS | {"one-cld": other}) | seeds)
    for name, cell in grid.cells.items():
        assert (cell.digest == after.cells[name].digest) == (cell.model.name != "one-cld")
    for name, model in grid.models.items():
        assert after.models[name].digest == model.digest, "nothing is trained again"
    cld, one = after.models["one-cld-seed7"], after.models["one-seed7"]
    assert (cld.folder, cld.digest) == (one.folder, one.digest)
    assert one.digest != after.models["one"].digest


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"weights": "psld", "overrides": ["process=cld"]}, "psld is trained for one process"),
        ({"weights": "other", "overrides": []}, "unknown model 'other'; there are: psld, one"),
        ({"weights": "one-cld", "overrides": []}, "unknown model 'one-cld'"),
        ({"weights": "one", "overrides": ["training.seed=3"]}, "more than the process"),
    ],
)
def test_weights_that_cannot_be_shared_are_refused(configs, entry, said):
    with pytest.raises(UserError, match=rf"mine\.yaml: .*models\.one-vp\.weights: .*{said}"):
        load(configs, with_models(MODELS | {"one-vp": entry}))

"""Complete commands on the fake GPU, in this process; all devices and types must match."""

import pytest

from psld.diffusion.samplers import EMSettings
from tests.commands import TINY, call, succeeded
from tests.fake_gpu.fake import FakeGPU

ANSWERS = {"training/loop.py": -1, "metrics/distances.py": 0}
"""The invented values of these files: no step has an infinite loss, and no root has an error."""


@pytest.fixture
def run(tmp_path):
    """Run a command on the fake GPU, with invented values, and assert that it launches kernels."""

    def on_fake_gpu(*words: str) -> None:
        with FakeGPU(ANSWERS) as gpu:
            succeeded(call(tmp_path, *words, "device=cuda:0"))
        assert gpu.kernels.total() > 50

    return on_fake_gpu


RECIPE = (*TINY, "training.steps=4", "training.checkpoint_every=2", "training.preview_every=4")


@pytest.mark.parametrize(("objective", "sampler"), [("epsilon", "em"), ("denoiser", "few")])
def test_train_sample_and_likelihood(run, digits, starts, monkeypatch, objective, sampler):
    preview = EMSettings(integrator="em", striding="quadratic", steps=3)
    monkeypatch.setattr("psld.models.previews.SAMPLER", preview)
    data = f"data={digits}"
    run("train", *RECIPE, f"training.objective={objective}", data, "output=model")
    sizes = ("sampler.steps=5", "shard_size=40", "output=samples")
    given = [f"start={starts / 'starts/digits.safetensors'}"] if sampler == "few" else []
    run("sample", f"sampler={sampler}", "model=model", *sizes, *given)
    run("likelihood", "model=model", data, "images=8", "tolerance=1e-1", "output=bits.json")


def test_a_start(run, digits):
    run("start", f"data={digits}", "output=start.safetensors", "start.components=[2]")


def test_extractor_reference_and_evaluate(run, digits):
    data = (f"data={digits}", "metric.extractor.steps=4")
    run("train_extractor", *data, "output=features")
    run("reference", *data, "extractor=features", "output=reference")
    metrics = "metric=[fd-classifier,kd-classifier,precision-classifier]"
    compared = ("reference=reference", "extractor=features", "samples=100")
    run("evaluate", f"images={digits}", metrics, *compared)


def test_a_guide_is_trained(run, digits):
    network = [word for word in TINY if word.startswith(("network", "wandb"))]
    settings = (*network, "training.steps=2", "training.batch_size=16", "output=guide")
    run("train_guide", *settings, f"data={digits}")

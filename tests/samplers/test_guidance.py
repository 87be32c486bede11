"""Guidance: towards a class whose distribution is known exactly, and by the command."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from torch import Tensor

from psld.commands.entry import CONFIGS
from psld.grid.resolution import Composer
from psld.utils.errors import UserError
from psld.metrics.extractor_folder import load_extractor
from psld.metrics.settings import MetricSettings
from psld.training.model import read_manifest
from psld.diffusion.instances import psld, vp_sde
from psld.diffusion.process import LinearProcess
from psld.sampling.fit import check_fit
from psld.diffusion.loop import sample
from psld.diffusion.score import ClassifierFreeScore, ClassifierGuidedScore
from psld.sampling.settings import ODESamplerSettings, SDESamplerSettings
from psld.sampling.shards import Shard
from psld.config.settings import parse
from tests.commands import TINY, call, refused, succeeded

# --- closed form ----------------------------------------------------------------------------------
# One pixel, two classes: x₀ ~ N(±MEAN, VARIANCE). Then p(z_t | y) is Gaussian, p(z_t) is a mixture,
# and score and guide are known exactly.

MEAN, VARIANCE = 0.8, 0.05
PROCESSES = {"psld": psld(0.25, 4.25), "cld": psld(0.0, 4.0), "vp-sde": vp_sde()}
SAMPLERS = {
    "em": SDESamplerSettings(integrator="em", striding="quadratic", steps=200),
    "sscs": SDESamplerSettings(integrator="sscs", striding="quadratic", steps=200),
    "rk45": ODESamplerSettings(integrator="rk45", tolerance=1e-4),
}


class Mixture:
    """p(z_t) = ½ N(−m, C) + ½ N(m, C), with m = MEAN φ, C = Σ + VARIANCE φ φᵀ, φ = Φ (1, 0)."""

    evaluations = 0

    def __init__(self, process: LinearProcess) -> None:
        self.process = process

    def moments(self, t: float) -> tuple[Tensor, Tensor]:
        time = torch.tensor([t], dtype=torch.float64)
        phi = self.process.transition(time)[0][:, :1]
        return MEAN * phi[:, 0], self.process.covariance(time)[0] + VARIANCE * phi @ phi.T

    def class_score(self, z: Tensor, t: float, label: int) -> Tensor:
        """∇ log p(z_t | y)."""
        mean, covariance = self.moments(t)
        centred = z.flatten(1).double() - (2 * label - 1) * mean
        return -torch.linalg.solve(covariance, centred.T).T.reshape(z.shape).to(z)

    def logits(self, z: Tensor, t: Tensor) -> Tensor:
        """log p(z_t | y) up to a constant, for one time: N×2."""
        mean, covariance = self.moments(float(t[0]))
        flat = z.flatten(1).double()
        signed = torch.stack([flat + mean, flat - mean])
        return -0.5 * (signed @ torch.linalg.inv(covariance) * signed).sum(-1).T

    def __call__(self, z: Tensor, t: float, matrix: Tensor) -> Tensor:
        """∇ log p(z_t), the score without a class."""
        self.evaluations += 1
        posterior = self.logits(z, torch.full((len(z),), t)).softmax(-1).to(z)
        scores = torch.stack([self.class_score(z, t, label) for label in (0, 1)])
        return torch.einsum("ny,ynchw->nchw", posterior, scores)


def states(process: LinearProcess, count: int) -> Tensor:
    random = torch.Generator().manual_seed(0)
    return process.prior(torch.randn(count, process.blocks, 1, 1, generator=random))


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_the_score_of_all_and_the_exact_guide_make_the_score_of_a_class(process):
    """∇ log p(z) + ∇ log p(y | z) = ∇ log p(z | y), in position and momentum."""
    mixture, z = Mixture(process), states(process, 20)
    labels = torch.arange(20) % 2
    guided = ClassifierGuidedScore(mixture, mixture.logits, labels, scale=1, batch_size=3)
    for t in (0.05, 0.4, 1.0):
        for label in (0, 1):
            expected = mixture.class_score(z, t, label)[labels == label]
            actual = guided(z, t, None)[labels == label]
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("process", "sampler"),
    [(p, s) for p in PROCESSES for s in SAMPLERS if (p, s) != ("vp-sde", "sscs")],
)
def test_guided_samples_have_the_distribution_of_their_class(process, sampler):
    process, count = PROCESSES[process], 3000
    mixture, labels = Mixture(process), torch.arange(count) % 2
    score = ClassifierGuidedScore(mixture, mixture.logits, labels, scale=1, batch_size=1000)
    random = torch.Generator().manual_seed(1)
    noise = lambda z: torch.randn(z.shape, generator=random)  # noqa: E731
    x = sample(process, SAMPLERS[sampler], score, states(process, count), noise)[:, 0].flatten()
    assert score.evaluations == mixture.evaluations
    for label in (0, 1):
        own = x[labels == label]
        error = 5 * math.sqrt(VARIANCE / len(own))
        assert float(own.mean()) == pytest.approx((2 * label - 1) * MEAN, abs=error + 0.02)
        assert float(own.var()) == pytest.approx(VARIANCE, rel=0.25)


def test_the_official_code_hands_the_guide_the_reverse_time():
    seen = []

    def guide(z, t):
        seen.append(t.unique().item())
        return z.flatten(1)

    z, plain = torch.zeros(4, 2, 1, 1), Mixture(PROCESSES["psld"])
    for official_time in (False, True):
        score = ClassifierGuidedScore(
            plain, guide, torch.zeros(4, dtype=torch.int64), 1, 2, official_time
        )
        score(z, 0.25, None)
    assert seen == [0.25, 0.25, 0.75, 0.75]


def test_classifier_free_guidance_goes_from_no_class_past_the_class():
    """ε(∅) + scale · (ε(y) − ε(∅)), by two evaluations, whatever the batch size."""

    def network(z, t, label):
        return z if label is None else z + label[:, None, None, None]

    z, labels = torch.randn(5, 1, 2, 2), torch.tensor([0, 1, 2, 3, 4])
    minus_one = -torch.ones(1, 1)
    for scale in (0.5, 1, 3):
        for batch_size in (2, 5):
            score = ClassifierFreeScore(network, labels, scale, batch_size)
            expected = -(z + scale * labels[:, None, None, None])
            torch.testing.assert_close(score(z, 0.5, minus_one), expected)
            assert score.evaluations == 2


# --- the command ----------------------------------------------------------------------------------

SIZE = 12
FREE = ("guidance@sampler.guidance=classifier-free",)
BY_CLASSIFIER = ("guidance@sampler.guidance=classifier",)
QUICK = {
    "em": ("sampler=em", "sampler.steps=6"),
    "sscs": ("sampler=sscs", "sampler.steps=6"),
    "rk45": ("sampler=rk45", "sampler.tolerance=1e-1"),
}


@pytest.fixture(params=QUICK.values(), ids=QUICK)
def quick(request):
    return request.param


def test_every_integrator_is_guided_by_a_guide(model, guide, quick, tmp_path):
    """Sample i goes to class i mod 10; its image depends on the guidance, not on the batch size."""
    overrides = (
        *quick,
        *BY_CLASSIFIER,
        f"guide={guide}",
        f"shard_size={SIZE}",
        "shard=1",
    )
    shards = {}
    for name, more in {
        "guided": (),
        "parts": ("batch_size=5",),
        "gently": ("sampler.guidance.scale=1",),
        "threes": ("sampler.guidance.label=3",),
    }.items():
        output = tmp_path / f"{name}.h5"
        arguments = (*overrides, *more, f"model={model}", f"output={output}")
        succeeded(call(tmp_path, "sample", *arguments))
        shards[name] = Shard.load(output)
    guided = shards["guided"]
    assert guided.labels.tolist() == [i % 10 for i in range(SIZE, 2 * SIZE)]
    assert guided.masks is None
    assert (
        guided.origin.guide_sha256 == read_manifest(guide, "guide")["weights_sha256"]
    )
    difference = np.abs(guided.images.astype(int) - shards["parts"].images)
    assert difference.max() <= 1
    assert not np.array_equal(guided.images, shards["gently"].images)
    assert shards["threes"].labels.tolist() == [3] * SIZE


def test_classifier_free_samples_and_their_recognised_share(
    conditional_model, digits, features, tmp_path
):
    """The metric's classifier, asked directly, finds as many of the classes as evaluation says."""
    cell = (*QUICK["em"], *FREE, f"model={conditional_model}", f"shard_size={SIZE}")
    for index in range(2):
        output = f"output=cell/{index:05d}.h5"
        succeeded(call(tmp_path, "sample", *cell, f"shard={index}", output))
    shards = [Shard.load(tmp_path / "cell" / f"{index:05d}.h5") for index in range(2)]
    assert [shard.nfe for shard in shards] == [12, 12]
    samples = 2 * SIZE - 3
    metric = (
        "metric.extractor.steps=20",
        f"extractor={features}",
        f"reference={features}/reference",
    )
    evaluation = (*cell, *metric, "shards=cell", f"samples={samples}", "output=result.json")
    succeeded(call(tmp_path, "evaluate", *evaluation))
    content = Composer(CONFIGS).content("reference", ["metric.extractor.steps=20"], "test")
    extractor = load_extractor(
        parse(MetricSettings, content["metric"], "test"),
        features,
        read_manifest(conditional_model)["dataset_digest"],
    )
    images = torch.from_numpy(np.concatenate([shard.images for shard in shards])[:samples])
    answers = extractor.logits(images).argmax(dim=1).numpy()
    labels = np.arange(samples) % 10
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["class_accuracy"] == pytest.approx((answers == labels).mean())


def test_a_class_conditional_model_samples_without_a_class_too(conditional_model, tmp_path):
    arguments = (*QUICK["em"], f"model={conditional_model}", f"shard_size={SIZE}", "output=x.h5")
    succeeded(call(tmp_path, "sample", *arguments))
    shard = Shard.load(tmp_path / "x.h5")
    assert shard.labels is None
    assert shard.nfe == 6


def test_shards_of_another_guide_are_refused(model, guide, digits, features, tmp_path):
    """A guide that was trained anew makes other images, although it lies in the same place."""
    cell = (*QUICK["em"], *BY_CLASSIFIER, "guide=guide", f"model={model}", "shard_size=4")
    shutil.copytree(guide, tmp_path / "guide")
    succeeded(call(tmp_path, "sample", *cell, "output=cell/00000.h5"))
    metric = (
        "metric.extractor.steps=20",
        f"extractor={features}",
        f"reference={features}/reference",
    )
    evaluation = (*cell, *metric, "shards=cell", "samples=4", "output=result.json")
    succeeded(call(tmp_path, "evaluate", *evaluation))
    retrain = (*TINY, "training.steps=2", f"data={digits}", "output=guide")
    succeeded(call(tmp_path, "train_guide", *retrain))
    refused(
        call(tmp_path, "evaluate", *evaluation), 2, "00000.h5: made by another guide_sha256"
    )


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ((*BY_CLASSIFIER,), ["guide: sampler.guidance needs it"]),
        (("guide=CLASSIFIER",), ["guide: sampler.guidance has no use for"]),
        ((*BY_CLASSIFIER, "guide=MODEL"), ["not the manifest of a guide"]),
        (("model=CLASSIFIER",), ["not the manifest of a model"]),
        ((*BY_CLASSIFIER, "guide=absent"), ["absent/manifest.json: no such file"]),
        (
            (*BY_CLASSIFIER, "guide=CLASSIFIER", "sampler.guidance.label=10"),
            ["sampler.guidance.label: dataset digits has no class 10; there are 0 to 9"],
        ),
        ((*FREE,), ["needs a class-conditional model", "training.label_dropout"]),
        ((*FREE, "sampler.guidance.scale=0"), ["sampler.guidance.scale", "greater than 0"]),
        ((*FREE, "sampler.guidance.label=-1"), ["sampler.guidance.label"]),
        ((*FREE, "+sampler.guidance.speed=1"), ["unknown key sampler.guidance.speed"]),
    ],
)
def test_bad_settings_are_refused_in_one_line(model, guide, tmp_path, overrides, words):
    places = {"MODEL": str(model), "CLASSIFIER": str(guide)}
    given = [f"model={model}", *QUICK["em"], "output=x.h5"]
    for override in overrides:
        key, _, value = override.partition("=")
        given = [o for o in given if not o.startswith(f"{key}=")]
        given.append(f"{key}={places.get(value, value)}")
    refused(call(tmp_path, "sample", *given), 2, *words)
    assert not (tmp_path / "x.h5").exists()


def model_settings(*overrides: str):
    return Composer(CONFIGS).model(overrides, "test")


@pytest.mark.parametrize(
    ("trained", "message"),
    [
        (["process=vp-sde"], "images noised by another process"),
        (["process=psld", "process.gamma=0.02"], "images noised by another process"),
        (["dataset=fashion-mnist"], "dataset.name fashion-mnist, the model with digits"),
        (["dataset.image_size=16", "dataset.filter=box"], "dataset.image_size 16"),
    ],
)
def test_a_guide_guides_models_of_its_own_dataset_and_process(trained, message):
    sampler = Composer(CONFIGS).sampler(BY_CLASSIFIER, "test")
    own = Composer(CONFIGS).guide([], "test")
    check_fit(sampler, model_settings(), own)
    with pytest.raises(UserError, match=message):
        check_fit(sampler, model_settings(), Composer(CONFIGS).guide(trained, "test"))
    with pytest.raises(UserError, match="guidance by a guide needs one"):
        check_fit(sampler, model_settings(), None)


def test_a_guide_of_the_logarithm_of_time_takes_no_official_time():
    official = (*BY_CLASSIFIER, "sampler.guidance.official_time=true")
    sampler = Composer(CONFIGS).sampler(official, "test")
    fourier = Composer(CONFIGS).guide(["network.embedding=fourier"], "test")
    positional = Composer(CONFIGS).guide(["network.embedding=positional"], "test")
    check_fit(sampler, model_settings(), positional)
    with pytest.raises(UserError, match="official_time: this guide embeds the logarithm"):
        check_fit(sampler, model_settings(), fourier)


def test_a_dataset_without_classes_cannot_be_guided():
    sampler = Composer(CONFIGS).sampler(BY_CLASSIFIER, "test")
    with pytest.raises(UserError, match="guidance needs classes, and dataset celeba64 has none"):
        check_fit(sampler, model_settings("dataset=celeba64"), None)

"""The sampling of a shard's images, with networks that record every call."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from psld.diffusion.gaussian import GaussianStart
from psld.diffusion.guidance import ClassifierFreeGuidance, ClassifierGuidance
from psld.diffusion.loop import sample
from psld.diffusion.score import GuidedScore, NetworkScore, class_gradient
from psld.sampling.model import ImageSampler
from psld.utils.batching import Batching
from psld.utils.errors import RunError
from psld.utils.randomness import ShardNoise
from tests.diffusion.processes import phase_space
from tests.diffusion.sampling import multistep, sde
from tests.diffusion.test_gaussian import SHAPE
from tests.diffusion.test_mixture import three

PROCESS = phase_space(0.02)
KEY = 7, 3
"""Seed and shard."""
STATES = (5, 4, 3, 4)
EM = sde("em", striding="quadratic", steps=4)


def eps(z, t, label=None):
    classes = 0 if label is None else (1 + label)[:, None, None, None]
    return torch.tanh(z + 0.3 * classes)


def logits(z, t):
    return z.flatten(1)[:, :4] * t[:, None]


def image_sampler(**changes) -> ImageSampler:
    given = {"settings": EM, "eps": eps, "network": nn.Linear(1, 1), "batching": Batching(2)}
    return ImageSampler(process=PROCESS, shape=SHAPE, **given | changes)


def by_hand(score, settings=EM, start=None, key=KEY) -> torch.Tensor:
    with ShardNoise(*key, STATES, torch.device("cpu")) as noise:
        z = start(noise) if start else PROCESS.prior(noise())
        return sample(PROCESS, settings, score, z, noise, silent=True)[:, :2]


def test_a_shard_has_the_final_states_of_the_sampler_from_its_noise():
    x, labels, nfe = image_sampler().sample(range(5), KEY)
    torch.testing.assert_close(x, by_hand(NetworkScore(eps, 5)))
    assert (x.shape, labels, nfe) == ((5, *SHAPE), None, 4)
    for key in ((7, 4), (8, 3)):
        assert not torch.allclose(image_sampler().sample(range(5), key)[0], x, atol=0.1)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_guidance_without_a_guide_has_its_scale_and_classes_in_turn(scale):
    free = ClassifierFreeGuidance(kind="classifier-free", scale=scale, label="cycle")
    settings = EM.model_copy(update={"guidance": free})
    x, labels, nfe = image_sampler(settings=settings, classes=(2, 0, 3)).sample(range(7, 12), KEY)
    assert labels.tolist() == [0, 3, 2, 0, 3], "image i of the cell has entry i mod 3"
    torch.testing.assert_close(x, by_hand(NetworkScore(eps, 5, labels, scale)))
    assert nfe == settings.evaluations == (4 if scale == 1 else 8)


@pytest.mark.parametrize(("scale", "official_time"), [(1.0, False), (4.0, False), (1.0, True)])
def test_guidance_by_a_guide_has_its_scale_and_time(scale, official_time):
    given = {"kind": "classifier", "scale": scale, "label": 1, "official_time": official_time}
    settings = EM.model_copy(update={"guidance": ClassifierGuidance(**given)})
    sampler = image_sampler(settings=settings, classes=(1,), logits=logits)
    x, labels, nfe = sampler.sample(range(5), KEY)
    plain = NetworkScore(eps, 5)
    score = GuidedScore(plain, class_gradient(logits, labels, 5, official_time), scale)
    torch.testing.assert_close(x, by_hand(score))
    assert (labels.tolist(), nfe) == ([1] * 5, 4)


@pytest.mark.parametrize("steps", [0, 3])
def test_a_start_from_images_takes_labels_noise_and_components(steps):
    data = replace(three(), weights=torch.tensor([(0.2, 0.5, 0.3)] * 3))
    start, labels = GaussianStart(PROCESS, data, 0.8, 1e-2), torch.tensor([1, 0, 1, 0, 1])
    free = ClassifierFreeGuidance(kind="classifier-free", scale=1.0, label="cycle")
    choice = {"start": "mixture", "start_level": 0.8, "guidance": free}
    settings = multistep(steps, **choice)
    x, *_ = image_sampler(settings=settings, gaussian=start, classes=(1, 0)).sample(range(5), KEY)
    if steps:
        score = NetworkScore(eps, 5, labels)
        begun = lambda noise: start(noise(), labels, noise.uniform())  # noqa: E731
        expected = by_hand(score, settings, begun)
    else:
        with ShardNoise(*KEY, STATES, torch.device("cpu")) as noise:
            expected = start.images(noise(), labels, noise.uniform())
    torch.testing.assert_close(x, expected, rtol=1e-4, atol=1e-5)


def test_one_infinite_value_raises_an_error():
    def network(z, t):
        z = eps(z, t)
        z[-1, 0, 0, 0] += float("inf") if float(t[0]) < 0.01 else 0
        return z

    with pytest.raises(RunError, match="shard 3: the sampler produced NaN or infinite values"):
        image_sampler(eps=network).sample(range(5), KEY)

"""Settings of processes and samplers: their defaults, and samplers that do not suit a process."""

import pytest
import torch

from benchmarks.settings import compose_model
from psld.diffusion.guidance import ClassifierGuidance
from psld.diffusion.settings import VPSDESettings
from psld.sampling.named import compose_named
from psld.utils.errors import UserError
from tests.diffusion.processes import vp_sde
from tests.diffusion.sampling import KINDS, sde
from tests.gpu.test_steps import SAMPLERS


def check_defaults(settings):
    for key, field in type(settings).model_fields.items():
        if not field.is_required():
            assert getattr(settings, key) == field.default, key


@pytest.mark.parametrize("name", KINDS)
def test_defaults_of_a_sampler_are_those_of_its_config(name):
    check_defaults(compose_named([f"sampler={name}"], "test").sampler)


@pytest.mark.parametrize("name", ["psld", "vp-sde", "recipe"])
def test_defaults_of_a_process_are_those_of_its_config(name):
    check_defaults(compose_model([f"process={name}"], "test").process)


def test_numbers_that_overflow_are_refused():
    for words in ("multistep sampler.eta=1e300", "few sampler.levels=[1e300,1] sampler.steps=2"):
        with pytest.raises(UserError, match=r"sampler\.\w+(\.0)?: Input should be less than or"):
            compose_named(f"sampler={words}".split(), "test")


@pytest.mark.parametrize("label", [True, [], [1, False]])
def test_a_class_is_a_number_or_a_name(label):
    with pytest.raises(ValueError, match="must be a class number, a class name or a list of these"):
        ClassifierGuidance(kind="classifier", scale=1.0, label=label)
    for right in (0, "cycle", (1, "two")):
        assert ClassifierGuidance(kind="classifier", scale=1.0, label=right).label == right


def test_classifier_free_guidance_doubles_the_evaluations():
    for words, count in (("", 7), (" guidance@sampler.guidance=classifier-free", 14)):
        named = f"sampler=em sampler.steps=7{words}"
        assert compose_named(named.split(), "test").sampler.evaluations == count
    assert compose_named(["sampler=rk45"], "test").sampler.evaluations is None


def test_splitting_needs_momentum():
    """The settings raise the error before anything is built."""
    sscs = sde("sscs", striding="uniform", steps=5)
    with pytest.raises(UserError, match="sscs needs a process with momentum"):
        sscs.check_process(VPSDESettings(kind="vp-sde"))
    with pytest.raises(UserError, match="sscs needs a process with momentum"):
        sscs.build(vp_sde(), torch.device("cpu"))


def test_the_gpu_tests_cover_every_sampler():
    """This test is here because the GPU tests are skipped without a GPU."""
    assert {*SAMPLERS, "rk45"} == {*KINDS}

"""Settings of samplers: those without effect on images are left out of cell names."""

import pytest

from psld.grid.composing import compose_sampler
from psld.sampling.settings import SamplerSettings


def dumped(*overrides: str) -> dict:
    settings: SamplerSettings = compose_sampler(overrides, "test")
    return settings.model_dump(mode="json", exclude_none=True)


def test_older_samplers_are_named_as_before_there_were_others():
    shared = {"final_time": 1e-3, "denoise": True, "guidance": {"kind": "none"}}
    fixed = {"striding": "uniform", "steps": 1000, "integrator": "em"}
    assert dumped("sampler=em") == shared | fixed
    assert dumped("sampler=rk45") == shared | {"integrator": "rk45", "tolerance": 1e-5}


@pytest.mark.parametrize(
    ("sampler", "unused", "used"),
    [
        ("em", "power", "striding=power"),
        ("multistep", "power", "striding=edm"),
    ],
)
def test_an_option_counts_where_it_changes_something(sampler, unused, used):
    plain = [f"sampler={sampler}"]
    other = f"sampler.{unused}=3"
    assert dumped(*plain) == dumped(*plain, other)
    assert dumped(*plain, f"sampler.{used}") != dumped(*plain, f"sampler.{used}", other)


def test_without_strength_all_conjugations_are_the_exponential_integrator():
    plain, ones = "sampler=conjugate", "sampler.conjugation=ones"
    assert dumped(plain) == dumped(plain, ones)
    assert dumped(plain, "sampler.strength=1") != dumped(plain, ones, "sampler.strength=1")


@pytest.mark.parametrize("name", ["conjugate", "em", "gddim", "multistep", "rk45", "sscs"])
def test_defaults_in_python_are_those_of_the_config(name):
    settings = compose_sampler([f"sampler={name}"], "test")
    for key, field in type(settings).model_fields.items():
        if not field.is_required():
            assert getattr(settings, key) == field.default, key


def test_an_interval_of_noise_counts_where_there_is_noise():
    interval = "sampler.eta_interval=[0.1,0.5]"
    without = ("sampler=multistep", "sampler.eta=0")
    assert dumped(*without) == dumped(*without, interval)
    assert dumped("sampler=multistep", "sampler.eta=1", interval)["eta_interval"] == [0.1, 0.5]

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
        ("conjugate", "strength", "conjugation=ones"),
    ],
)
def test_an_option_counts_where_it_changes_something(sampler, unused, used):
    plain = [f"sampler={sampler}"]
    plain += ["sampler.conjugation=zero"] if sampler == "conjugate" else []
    other = f"sampler.{unused}=3"
    assert dumped(*plain) == dumped(*plain, other)
    assert dumped(*plain, f"sampler.{used}") != dumped(*plain, f"sampler.{used}", other)


def test_an_interval_of_noise_counts_where_there_is_noise():
    interval = "sampler.eta_interval=[0.1,0.5]"
    without = ("sampler=multistep", "sampler.eta=0")
    assert dumped(*without) == dumped(*without, interval)
    assert dumped("sampler=multistep", "sampler.eta=1", interval)["eta_interval"] == [0.1, 0.5]

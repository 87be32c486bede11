"""Settings: strict, explained in one line, free of torch; and every config that fits them."""

import importlib
import subprocess
import sys
from typing import Annotated, Literal

import pytest
import torch
import yaml
from pydantic import Field, model_validator

from psld.commands.entry import CONFIGS
from psld.grid.resolution import Composer
from psld.utils.errors import UserError
from psld.metrics.feature_classifier import FeatureClassifier, ImageShape
from psld.metrics.settings import GuideSettings as FeatureClassifierSettings
from psld.training.model import build_network, build_process
from psld.networks.guide import NCSNppGuide
from psld.networks.settings import GuideSettings
from psld.diffusion.instances import psld
from psld.diffusion.integrators import make_integrator
from psld.sampling.settings import SampleSettings
from psld.config.settings import Settings, parse

# --- parse --------------------------------------------------------------------------------------


class Cat(Settings):
    kind: Literal["cat"]
    lives: int = Field(9, ge=1)


class Dog(Settings):
    kind: Literal["dog"]
    name: str


class House(Settings):
    animal: Annotated[Cat | Dog, Field(discriminator="kind")]
    rooms: tuple[int, ...] = ()

    @model_validator(mode="after")
    def _dogs_need_room(self) -> "House":
        if self.animal.kind == "dog" and not self.rooms:
            raise ValueError("a dog needs a room")
        return self


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "x: animal is missing"),
        ({"animal": {"kind": "dog"}}, "x: animal.name is missing"),
        ({"animal": {"kind": "cat", "lifes": 7}}, "x: unknown key animal.lifes"),
        (
            {"animal": {"kind": "cat", "lives": 0}},
            "x: animal.lives: Input should be greater than or equal to 1 (got 0)",
        ),
        ({"animal": {"kind": "dog", "name": "Rex"}}, "x: (settings): a dog needs a room"),
        (
            {"animal": {"kind": "cat", "tail": 1}, "garden": 1},
            "x: unknown key animal.tail; unknown key garden",
        ),
    ],
)
def test_complaints_name_the_key_that_the_user_wrote(content, message):
    with pytest.raises(UserError) as caught:
        parse(House, content, where="x")
    assert str(caught.value) == message


def test_an_unknown_variant_lists_the_known_ones():
    with pytest.raises(UserError, match=r"^x: animal: .*'bird'.*'cat', 'dog'"):
        parse(House, {"animal": {"kind": "bird"}}, where="x")


def test_a_wrong_entry_of_a_list_is_named():
    with pytest.raises(UserError, match=r"^x: rooms\.1: .*integer.*'large'"):
        parse(House, {"animal": {"kind": "cat"}, "rooms": [1, "large"]}, where="x")


def test_settings_do_not_change():
    house = parse(House, {"animal": {"kind": "cat"}}, where="x")
    with pytest.raises(ValueError, match="frozen"):
        house.animal.lives = 3


# --- without torch ------------------------------------------------------------------------------

LIGHT = (
    "psld.settings",
    "psld.files",
    "psld.cli",
    "psld.processes.settings",
    "psld.networks.settings",
    "psld.datasets.settings",
    "psld.samplers.settings",
    "psld.training.settings",
    "psld.metrics.settings",
    "psld.compose",
    "psld.grid",
    "psld.cells",
)


def test_what_snakemake_reads_imports_no_torch():
    """A torch import costs seconds in every one of its processes."""
    code = f"import sys, {', '.join(LIGHT)}; print([m for m in sys.modules if m == 'torch'])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"


# --- the configs --------------------------------------------------------------------------------

ENTRIES = ("prepare", "train", "sample", "evaluate", "reference", "train_extractor")


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


def groups_of(entry: str) -> list[str]:
    """The config groups that an entry point chooses from."""
    defaults = yaml.safe_load((CONFIGS / f"{entry}.yaml").read_text())["defaults"]
    return [next(iter(default)) for default in defaults if isinstance(default, dict)]


def settings_class(entry: str) -> type[Settings]:
    places = {
        "prepare": "psld.datasets.settings",
        "train": "psld.training.settings",
        "sample": "psld.samplers.settings",
        "evaluate": "psld.evaluate",
        "reference": "psld.metrics.settings",
        "train_extractor": "psld.metrics.settings",
    }
    name = "".join(word.capitalize() for word in entry.split("_")) + "Settings"
    return getattr(importlib.import_module(places[entry]), name)


CHOICES = [
    (entry, group, option)
    for entry in ENTRIES
    for group in groups_of(entry)
    if (CONFIGS / group).is_dir()
    for option in options(group)
    # What guides samples is no ε-network, and Inception is not trained here.
    if not (group == "network" and option.startswith("guide-"))
    and not (entry == "train_extractor" and option.startswith("fid"))
]

REQUIRED = {
    "sample": ("model=x", "output=x"),
    "evaluate": ("model=x", "shards=x", "reference=x", "output=x"),
    "train": ("name=x",),
}


def fitting(group: str, option: str) -> list[str]:
    """What else must be said where an option is chosen."""
    if option == "folder":
        return ["dataset.name=x", "dataset.source.root=x"]
    if option == "paper":
        return ["training.steps=1", "training.batch_size=1", "training.micro_batch=1"]
    if group == "network":
        dataset = option.split("-")[0]
        known = {name.split("-")[0]: name for name in reversed(options("dataset"))}
        return [f"dataset={known.get(dataset, 'digits')}"]
    return []


def composed(entry: str, group: str, option: str) -> Settings:
    overrides = [f"{group}={option}", *fitting(group, option), *REQUIRED.get(entry, ())]
    content = Composer(CONFIGS).content(entry, overrides, where=f"{group}={option}")
    return parse(settings_class(entry), content, where=f"{group}={option}")


@pytest.mark.parametrize(("entry", "group", "option"), CHOICES)
def test_every_option_of_every_group_composes(entry, group, option):
    settings = composed(entry, group, option)
    if group == "dataset" and option != "folder":
        assert settings.dataset.name == option
    if group == "metric":
        assert settings.metric.name == option
    if group == "sampler":
        assert settings.sampler.integrator == option


@pytest.mark.parametrize("option", [option for _, g, option in CHOICES if g == "network"])
def test_every_network_can_be_built_for_its_dataset(option):
    settings = composed("train", "network", option)
    process = build_process(settings)
    with torch.device("meta"):
        network = build_network(settings, process)
    shape = (2, settings.dataset.channels, settings.dataset.image_size, settings.dataset.image_size)
    assert sum(p.numel() for p in network.parameters()) > 1e5
    assert network.in_shape == (2 * shape[1], *shape[2:])


@pytest.mark.parametrize("option", [o for o in options("network") if o.startswith("guide-")])
def test_every_guiding_guide_can_be_built(option):
    content = yaml.safe_load((CONFIGS / "network" / f"{option}.yaml").read_text())
    settings = parse(GuideSettings, content, where=option)
    with torch.device("meta"):
        network = NCSNppGuide(settings, image_size=32, in_channels=6, num_classes=10)
    assert network.head.out_features == 10


@pytest.mark.parametrize("option", options("process"))
def test_every_process_can_be_built(option):
    process = build_process(composed("train", "process", option))
    t = torch.linspace(0.001, 1, 5, dtype=torch.float64)
    assert torch.linalg.eigvalsh(process.covariance(t)).min() > 0


@pytest.mark.parametrize("option", options("sampler"))
def test_every_sampler_can_be_built(option):
    settings = composed("sample", "sampler", option)
    assert isinstance(settings, SampleSettings)
    integrator = make_integrator(psld(0.01, 4.01), settings.sampler, torch.device("cpu"))
    assert len(integrator.times) >= 1


@pytest.mark.parametrize("option", options("metric"))
def test_every_metric_can_be_computed_on_the_digits(option):
    """Inception takes any image; what it needs is a file, which tests/metrics has."""
    metric = composed("reference", "metric", option).metric
    if isinstance(metric.extractor, FeatureClassifierSettings):
        shape = ImageShape(channels=1, image_size=8, num_classes=10)
        FeatureClassifier(metric.extractor, shape)
    else:
        assert metric.extractor.kind == "inception"

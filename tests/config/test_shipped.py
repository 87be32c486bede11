"""The shipped configs: each composes, and its objects can be built."""

import functools

import pytest
import torch
import yaml

from psld.config.compose import compose_content
from psld.config.locations import CONFIGS
from psld.config.settings import Settings, parse
from psld.metrics.classifier import FeatureClassifier, ImageShape
from psld.metrics.settings import ClassifierSettings
from psld.networks.ncsnpp import NCSNppGuide
from psld.networks.settings import GuideSettings
from psld.training.model import build_network
from tests.cli.settings import COMPOSED
from tests.diffusion.processes import phase_space

ENTRIES = ("prepare", "train", "sample", "evaluate", "reference", "train_extractor")


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


def groups_of(entry: str) -> list[str]:
    """The config groups that an entry point chooses from."""
    defaults = yaml.safe_load((CONFIGS / f"{entry}.yaml").read_text())["defaults"]
    return [next(iter(default)) for default in defaults if isinstance(default, dict)]


GUIDED = ("demo", "cifar10", "afhqv2")
"""What guides are for."""

CHOICES = [
    (entry, group, option)
    for entry in ENTRIES
    for group in groups_of(entry)
    if (CONFIGS / group).is_dir()
    for option in options(group)
    # A guide is no ε-network, and only classifiers are trained here.
    if not (group == "network" and option.startswith("guide-"))
    and not (entry == "train_extractor" and group == "metric" and option != "fd-classifier")
]
CHOICES += [
    ("train_guide", group, f"guide-{name}") for group in ("network", "training") for name in GUIDED
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
        dataset = option.removeprefix("guide-").split("-")[0]
        known = {name.split("-")[0]: name for name in reversed(options("dataset"))}
        return [f"dataset={known.get(dataset, 'digits')}"]
    return []


@functools.cache
def composed(entry: str, group: str, option: str) -> Settings:
    overrides = [f"{group}={option}", *fitting(group, option), *REQUIRED.get(entry, ())]
    content = compose_content(entry, overrides, where=f"{group}={option}")
    return parse(COMPOSED[entry], content, where=f"{group}={option}")


@pytest.mark.parametrize(("entry", "group", "option"), CHOICES)
def test_every_option_of_every_group_composes(entry, group, option):
    settings = composed(entry, group, option)
    if group == "dataset" and option != "folder":
        assert settings.dataset.name == option
    if group == "metric":
        assert settings.metric.name == option
    if group == "sampler":
        assert settings.sampler.integrator == option


@pytest.mark.parametrize("option", [o for e, g, o in CHOICES if (e, g) == ("train", "network")])
def test_every_network_can_be_built_for_its_dataset(option):
    settings = composed("train", "network", option)
    process = settings.process.build()
    with torch.device("meta"):
        network = build_network(settings, process)
    shape = (2, settings.dataset.channels, settings.dataset.image_size, settings.dataset.image_size)
    assert sum(p.numel() for p in network.parameters()) > 1e5
    assert network.in_shape == (2 * shape[1], *shape[2:])


@pytest.mark.parametrize("option", [f"guide-{name}" for name in GUIDED])
def test_every_guide_can_be_built(option):
    content = yaml.safe_load((CONFIGS / "network" / f"{option}.yaml").read_text())
    settings = parse(GuideSettings, content, where=option)
    with torch.device("meta"):
        network = NCSNppGuide(settings, image_size=32, in_channels=6, num_classes=10)
    assert network.head.out_features == 10


@pytest.mark.parametrize("option", options("process"))
def test_every_process_can_be_built(option):
    process = composed("train", "process", option).process.build()
    t = torch.linspace(0.001, 1, 5, dtype=torch.float64)
    assert torch.linalg.eigvalsh(process.covariance(t)).min() > 0


@pytest.mark.parametrize("option", options("sampler"))
def test_every_sampler_can_be_built(option):
    settings = composed("sample", "sampler", option)
    integrator = settings.sampler.build(phase_space(0.01), torch.device("cpu"))
    assert len(integrator.times) >= 1


@pytest.mark.parametrize("option", options("metric"))
def test_every_metric_can_be_computed_on_the_digits(option):
    """Inception takes any image; what it needs is a file, which tests/metrics has."""
    metric = composed("reference", "metric", option).metric
    if isinstance(metric.extractor, ClassifierSettings):
        shape = ImageShape(channels=1, image_size=8, num_classes=10)
        FeatureClassifier(metric.extractor, shape)
    else:
        assert metric.extractor.kind in ("inception", "dinov2", "efficientnet-lite0")

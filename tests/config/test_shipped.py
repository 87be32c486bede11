"""The shipped configs: each config composes, and its objects can be built."""

import re
from collections.abc import Iterator

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from psld.commands.main import COMMANDS as ALL
from psld.commands.main import program
from psld.config.compose import compose_content, for_hydra
from psld.config.locations import CONFIGS
from psld.config.settings import Settings, group_of, parse
from psld.metrics.classifier import ImageShape
from psld.models.build import build
from tests.diffusion.processes import phase_space

KINDS = {name: program(name).command.kind for name in ALL}
COMMANDS = ("prepare", "train", "train_guide", "sample", "reference", "train_extractor")
REQUIRED = {"sample": ("model=x", "output=x")}
FITTING = {
    "folder": ("dataset.name=x", "dataset.source.root=x"),
    "tensors": (
        *("dataset.name=x", "dataset.channels=1", "dataset.image_size=8", "dataset.source.path=x"),
    ),
    "small-32": ("dataset=fashion-mnist",),
    "student": ("training.objective.cell=pairs",),
    "paper": ("training.steps=1", "training.batch_size=1"),
}
"""Further overrides that an option requires, keyed by option."""


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


def places() -> Iterator[tuple[str, str, str]]:
    """Yield each option of each group, with a command that accepts the option.

    Options of guides belong to `train_guide`, because a guide is no ε-network.
    """
    seen = set()
    for command in COMMANDS:
        defaults = yaml.safe_load((CONFIGS / f"{command}.yaml").read_text())["defaults"]
        for group in (next(iter(default)) for default in defaults if isinstance(default, dict)):
            for option in options(group):
                is_guide = option.startswith("guide-")
                if (group, option) not in seen and is_guide == (command == "train_guide"):
                    seen.add((group, option))
                    yield command, group, option
    yield "train_extractor", "metric", "fd-classifier"


def composed(command: str, group: str, option: str) -> Settings:
    where, more = f"{group}={option}", FITTING.get(option, ())
    if group == "network":
        name = option.removeprefix("guide-").split("-")[0]
        known = {dataset.split("-")[0]: dataset for dataset in reversed(options("dataset"))}
        more = more or (f"dataset={known.get(name, 'digits')}",)
    content = compose_content(command, [where, *more, *REQUIRED.get(command, ())], where=where)
    return parse(KINDS[command], content, where=where)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("train", "process=cld network=small network.width=3 training.optimizer=adamw name=x"),
        ("train_guide", "training=guide-demo training.optimizer.beta1=0.5 +training.seed=3"),
        ("sample", "guidance@sampler.guidance=classifier sampler=few model=x output=y guide=z"),
        ("reference", "metric=kid dataset=cifar10 metric.measure.subsets=3"),
    ],
)
def test_composition_agrees_with_hydra(command, words):
    """psld.config.compose uses internals of Hydra 1.3. If this fails, Hydra has changed."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose(command, for_hydra(words.split()), return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    keys = [key for key in config if key != "hydra"]
    whole = OmegaConf.to_container(OmegaConf.masked_copy(config, keys), resolve=True)
    assert list(compose_content(command, words.split(), "test").items()) == list(whole.items())


@pytest.mark.parametrize(("command", "group", "option"), [*places()])
def test_every_option_of_every_group_composes_and_can_be_built(command, group, option):
    settings = composed(command, group, option)
    match group:
        case "metric" if settings.metric.extractor.kind == "classifier":
            shape = ImageShape(channels=1, image_size=8, num_classes=10)
            settings.metric.extractor.build_trained(shape, torch.device("cpu"))
        case "sampler":
            sampler = settings.sampler
            if option == "few":  # In use, the level comes from the model.
                sampler = sampler.model_copy(update={"start_level": 2.0})
            assert len(sampler.build(phase_space(0.01), torch.device("cpu")).times) >= 1
        case "process":
            t = torch.linspace(0.001, 1, 5, dtype=torch.float64)
            assert torch.linalg.eigvalsh(settings.process.build().covariance(t)).min() > 0
        case "network":
            process = settings.process.build()
            with torch.device("meta"):
                network = build(settings, process)
            assert sum(p.numel() for p in network.parameters()) > 1e4
        case "dataset" | "metric" if option not in ("folder", "tensors"):
            assert getattr(settings, group).name == option


NAMES = {"kind", "integrator"}
"""Keys that select a part; a config may set them to their default."""


def repeated(kind: type[Settings], content: dict) -> list[str]:
    """Return the keys of a config that repeat the default of the class."""
    found = []
    for key, value in content.items():
        field = kind.model_fields[key]
        if (group := group_of(field, value)) and isinstance(value, dict):
            found += [f"{key}.{inner}" for inner in repeated(group, value) if inner not in NAMES]
        elif not field.is_required() and as_json(field.default) == as_json(value):
            found.append(key)
    return found


def as_json(value: object) -> object:
    if isinstance(value, list | tuple):
        return [as_json(each) for each in value]
    number = isinstance(value, str) and re.fullmatch(r"[\d.]+(e-?\d+)?", value)
    return float(value) if number else value


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*/*.yaml")), ids=lambda path: path.stem)
def test_configs_do_not_repeat_defaults(path):
    """A config that inherits from another config may repeat a default of the class."""
    content, group = yaml.safe_load(path.read_text()), path.parent.name
    fields = {**KINDS["sample"].model_fields, **KINDS["train"].model_fields}
    fields |= KINDS["reference"].model_fields
    if group in fields and group != "wandb" and "defaults" not in content:
        kind = group_of(fields[group], content)
        assert kind, path
        if path.stem.startswith("guide-") and group == "training":
            kind = KINDS["train_guide"].model_fields["training"].annotation
        assert set(repeated(kind, content)) <= NAMES


@pytest.mark.parametrize(
    ("words", "composed"),
    [
        ("{kind: a:B, inner: {x: 3}}", ["~network", "++network={kind: a:B, inner: {x: 3}}"]),
        ("{kind: a:B},demo", ["network={kind: a:B},demo"]),  # of a sweep
        ("{width: 3}", ["network={width: 3}"]),
    ],
)
def test_an_override_with_a_kind_replaces_the_part_of_a_group(words, composed):
    assert for_hydra([f"network={words}"]) == composed
    assert for_hydra([f"network={words}", "network=demo"])[-1] == "network=demo"
    assert for_hydra(["network=demo", f"network={words}"])[-len(composed) :] == composed

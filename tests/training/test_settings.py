"""The training settings: errors, and the settings that determine the run directory."""

from functools import cache

import pytest
import yaml

from psld.config.compose import compose_content
from psld.config.settings import parse
from psld.models.objectives import TrainingSettings
from psld.training.settings import TrainGuideSettings, TrainSettings
from psld.utils.errors import UserError


@cache
def train_settings(*overrides: str) -> TrainSettings:
    names = ["name=x", "grid_name=x"]
    content = compose_content("train", [*names, *overrides], "test")
    return parse(TrainSettings, content, "test")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ema_decay": 1.0}, "ema_decay"),
        ({"label_dropout": 0}, "label_dropout"),
        ({"label_dropout": 1}, "label_dropout"),
        (
            {"objective": "denoiser", "weighting": "nll"},
            "weighting: only objective=epsilon uses it",
        ),
        ({"noise_law": {}, "weighting": "nll"}, "weighting: nll needs uniform times"),
        ({"noise_law": {"low": 2, "high": 2}}, "low must be below high, got 2 and 2"),
    ],
)
def test_impossible_values_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        parse(TrainingSettings, {"steps": 10, "batch_size": 12} | changes, "test")


def test_a_denoiser_has_the_given_or_the_default_noise_distribution():
    usual, given = (
        train_settings("training.objective=denoiser", f"training.noise_law={law}").training
        for law in ("null", "{high: 80}")
    )
    assert (usual.noise_law.center, usual.noise_law.high) == (-1.2, 1000)
    assert (given.noise_law.center, given.noise_law.high) == (-1.2, 80)
    assert train_settings().training.noise_law is None


def test_images_that_cannot_be_halved_so_often_are_refused():
    three_levels = ("dataset.filter=box", "network.channel_multipliers=[1,2,2]")
    assert train_settings(*three_levels, "dataset.image_size=12").dataset.image_size == 12
    with pytest.raises(UserError, match="image_size 14 cannot be halved 2 times"):
        train_settings(*three_levels, "dataset.image_size=14")


def test_a_guide_needs_several_classes():
    none, one, two = (
        compose_content(
            "train_guide", [f"dataset.num_classes={n}", "name=x", "grid_name=x"], "test"
        )
        for n in range(3)
    )
    assert parse(TrainGuideSettings, two, "test").dataset.num_classes == 2
    for content in (none, one):
        with pytest.raises(UserError, match="a guide needs at least 2 classes"):
            parse(TrainGuideSettings, content, "test")


def test_label_dropout_makes_a_model_class_conditional():
    assert train_settings().model().num_classes == 0
    assert train_settings("training.label_dropout=0.1").model().num_classes == 10


@pytest.mark.parametrize("key", ["name", "grid_name"])
def test_names_are_no_paths(key):
    content = train_settings().model_dump()
    for name in ("../demo/psld-0.25", "/x", "a/b", "..", "a b", ""):
        with pytest.raises(UserError, match=f"^test: {key}: "):
            parse(TrainSettings, content | {key: name}, "test")
    for name in ("psld-0.25", "2024_b"):
        assert getattr(parse(TrainSettings, content | {key: name}, "test"), key) == name


KEEPS_THE_RUN = [
    "training.checkpoint_every=10",
    "training.log_every=7",
    "training.preview_every=7",
    "training.compile=true",
    "training.compile=reduce-overhead",
    "training.micro_batch=8",
    "grid_name=other",
    "device=cpu",
    "wandb.mode=disabled",
    "output=elsewhere",
]
DECIDES_THE_WEIGHTS = [
    "process.gamma=0.02",
    "process.kappa=0.1",
    "network.dropout=0.2",
    "dataset.flip=true",
    "training.objective=denoiser",
    "training.noise_law={}",
    "training.steps=7",
    "training.batch_size=8",
    "training.learning_rate=1e-3",
    "training.warmup_steps=7",
    "training.optimizer=adamw",
    "training.schedule=cosine",
    "training.average={kind: ema, decay: 0.5}",
    "training.noise_block=4",
    "training.grad_clip=2",
    "training.ema_decay=0.5",
    "training.time_eps=1e-4",
    "training.precision=bf16",
    "training.seed=1",
    "training.weighting=nll",
    "training.label_dropout=0.1",
]


def run_with(word: str) -> str:
    """Return the name of the run directory with an override KEY=VALUE, without Hydra."""
    key, _, value = word.partition("=")
    content = group = train_settings().model_dump(mode="json")
    *groups, last = key.split(".")
    for name in groups:
        group = group[name]
    group[last] = yaml.safe_load(value)
    if last == "average":  # replaces the average of `ema_decay`
        del group["ema_decay"]
    return parse(TrainSettings, content, "test").run_name("0")


def test_only_settings_that_determine_the_weights_change_the_run_directory():
    usual = train_settings().run_name("0")
    same = [word for word in KEEPS_THE_RUN + DECIDES_THE_WEIGHTS if run_with(word) == usual]
    assert same == KEEPS_THE_RUN


def test_every_setting_of_a_training_is_tried_here():
    """If a setting were missing in the identity, a training could resume from the weights of
    another training."""
    keys = (word.partition("=")[0] for word in KEEPS_THE_RUN + DECIDES_THE_WEIGHTS)
    tried = {key.removeprefix("training.") for key in keys if key.startswith("training.")}
    assert tried == TrainingSettings.model_fields.keys()


def test_a_denoiser_is_the_same_for_every_process():
    same = [["process=vp-sde"], ["training.time_eps=1e-4"]]
    laws = [["training.noise_law={center: -1}"], ["training.noise_law={high: 80}"]]
    plain, *found = (
        train_settings("training.objective=denoiser", *words).run_name("0")
        for words in ([], *same, *laws, ["training.grad_clip=2"])
    )
    assert [each == plain for each in found] == [True, True, False, False, False]


def test_a_process_is_the_same_or_that_of_a_denoiser():
    own, other = train_settings().process, train_settings("process=vp-sde").process
    model = train_settings().model()
    denoiser = train_settings("training.objective=denoiser").model()
    for each in (model, denoiser):
        assert each.with_process(None) == each.with_process(own) == each
    assert denoiser.with_process(other).process == other
    with pytest.raises(UserError, match="process: the network serves only the process"):
        model.with_process(other)


def test_the_source_of_the_images_does_not_change_the_run_directory():
    options = ("dataset=folder", "dataset.name=x", "network.channel_multipliers=[1,2]")
    here, there = (train_settings(*options, f"dataset.source.root={root}") for root in "ab")
    assert here.run_name("0") == there.run_name("0")


def test_other_pixels_change_the_run_directory():
    assert train_settings().run_name("0") != train_settings().run_name("1")

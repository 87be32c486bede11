"""The training settings: errors, and the settings that determine the run directory."""

from functools import cache

import pytest

from psld.config.compose import compose_content
from psld.config.settings import parse
from psld.training.settings import TrainingSettings, TrainSettings
from psld.utils.errors import UserError


@cache
def train_settings(*overrides: str) -> TrainSettings:
    names = ["name=x", "grid_name=x"]
    content = compose_content("train", [*names, *overrides], "test")
    return parse(TrainSettings, content, "test")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"micro_batch": 5}, "micro_batch 5 does not divide batch_size 12"),
        ({"ema_decay": 1.0}, "ema_decay"),
        ({"precision": "fp16"}, "precision"),
        ({"weighting": "elbo"}, "weighting"),
        ({"label_dropout": 0}, "label_dropout"),
        ({"label_dropout": 1}, "label_dropout"),
    ],
)
def test_impossible_values_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        parse(TrainingSettings, {"steps": 10, "batch_size": 12} | changes, "test")


def test_label_dropout_makes_a_model_class_conditional():
    assert train_settings().model().num_classes == 0
    assert train_settings("training.label_dropout=0.1").model().num_classes == 10


@pytest.mark.parametrize("key", ["name", "grid_name"])
def test_names_are_no_paths(key):
    for name in ("../demo/psld-0.25", "/x", "a/b", "..", "a b", ""):
        with pytest.raises(UserError, match=f"^test: {key}: "):
            train_settings(f"{key}='{name}'")
    for name in ("psld-0.25", "2024_b", "sweep-gamma"):
        assert getattr(train_settings(f"{key}={name}"), key) == name


@pytest.mark.parametrize(
    "override",
    [
        "training.checkpoint_every=10",
        "training.log_every=7",
        "training.preview_every=7",
        "training.compile=true",
        "training.micro_batch=8",
        "grid_name=other",
        "device=cpu",
        "wandb.mode=disabled",
        "output=elsewhere",
    ],
)
def test_what_does_not_decide_the_weights_keeps_the_run(override):
    assert train_settings(override).run_name("0") == train_settings().run_name("0")


@pytest.mark.parametrize(
    "override",
    [
        "process.gamma=0.02",
        "network.dropout=0.2",
        "training.seed=1",
        "training.steps=7",
        "training.precision=bf16",
        "dataset.flip=true",
    ],
)
def test_what_decides_the_weights_has_a_run_of_its_own(override):
    assert train_settings(override).run_name("0") != train_settings().run_name("0")


def test_where_the_images_come_from_does_not_decide_the_weights():
    options = ("dataset=folder", "dataset.name=x", "network.channel_multipliers=[1,2]")
    here, there = (train_settings(*options, f"dataset.source.root={root}") for root in "ab")
    assert here.run_name("0") == there.run_name("0")


def test_other_pixels_have_a_run_of_their_own():
    assert train_settings().run_name("0") != train_settings().run_name("1")

"""Metric settings: honest names, no unknown keys."""

import pytest

from psld.config.kinds import SHIPPED
from psld.config.settings import parse
from psld.metrics.settings import Measure, MetricSettings
from psld.utils.errors import UserError


def metric(name: str, kind: str, **more: object) -> MetricSettings:
    return parse(MetricSettings, {"name": name, "extractor": {"kind": kind}, **more}, "metric")


@pytest.mark.parametrize(
    ("extractor", "measure", "name"),
    [
        ("inception", "frechet", "fid"),
        ("inception", "recall", "recall-inception"),
        ("classifier", "kernel", "kd-classifier"),
        ("studies.untouched.parts:EfficientNet", "frechet", "fd-efficientnet-lite0"),
    ],
)
def test_each_metric_has_one_honest_name(extractor, measure, name):
    assert metric(name, extractor, measure={"kind": measure}).honest_name == name
    assert metric(f"{name}-test", extractor, measure={"kind": measure}).honest_name == name
    for other in ("fd", f"{name}s", "kid" if name == "fid" else "fid"):
        with pytest.raises(UserError, match=f"is named {name} or {name}-SUFFIX, not {other}"):
            metric(other, extractor, measure={"kind": measure})


def test_fd_dinov2_uses_the_large_network_by_default():
    small = {"name": "fd-dinov2", "extractor": {"kind": "dinov2", "size": "small"}}
    with pytest.raises(UserError, match="is named fd-dinov2-small"):
        parse(MetricSettings, small, "metric")


def test_measures_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match=r"inception-score needs extractor\.kind inception"):
        metric("inception-score", "classifier", measure={"kind": "inception-score"})
    with pytest.raises(UserError, match="set reference_split to train"):
        metric(
            "memorization-classifier",
            "classifier",
            measure={"kind": "memorization"},
            reference_split="test",
        )


def test_scores_precision_and_recall_are_better_if_larger():
    larger = {"inception-score", "precision", "recall"}
    better = {kind: Measure.model_validate(kind).better for kind in SHIPPED["measure"]}
    assert {kind for kind in better if better[kind] == "larger"} == larger
    assert better["memorization"] is None


def test_speed_settings_and_paths_are_not_in_the_identity():
    identity = metric("fid", "inception").identity()
    assert identity["extractor"] == {"kind": "inception"}
    placed = {"kind": "inception", "weights": "inception.pth"}
    given = {"name": "fid", "extractor": placed, "batch_size": 7}
    assert parse(MetricSettings, given, "metric").identity() == identity
    assert metric("fid", "inception", truncated_reference=True).identity() != identity
    training = {"kind": "classifier", "batch_size": 7}
    other = parse(MetricSettings, {"name": "fd-classifier", "extractor": training}, "metric")
    assert other.identity() != metric("fd-classifier", "classifier").identity()

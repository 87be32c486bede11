"""The status of a result: intervals and bands, and the number of samples that would decide."""

import numpy as np
import pytest

from psld.config.settings import parse
from psld.evaluation.results import place_in_band, samples_to_decide
from psld.evaluation.settings import Measurement
from psld.metrics.estimate import Interval
from psld.metrics.settings import MetricSettings


def test_the_digest_of_a_result_includes_images_metric_and_samples():
    content = {"name": "fid", "extractor": {"kind": "inception"}}
    fid = parse(MetricSettings, content, "metric")
    base = Measurement(metric=fid, samples=100)
    digests = {base.digest("a"), base.digest("b")}
    digests.add(base.model_copy(update={"samples": 50}).digest("a"))
    for changes in ({"truncated_reference": True}, {"reference_split": "test"}):
        digests.add(Measurement(metric=fid.model_copy(update=changes), samples=100).digest("a"))
    assert len(digests) == 5
    faster = fid.model_copy(update={"batch_size": 7})
    assert Measurement(metric=faster, samples=100).digest("a") in digests


def test_an_interval_is_inside_or_outside_a_band_as_a_whole():
    places = {(2, 3): "inside", (1, 2): "inside", (4, 5): "outside", (0, 1): "overlap"}
    places |= {(3, 4): "overlap", (-1, 0): "outside", (0, 5): "overlap"}
    for (low, high), place in places.items():
        assert place_in_band(Interval((low + high) / 2, low, high), 1, 3) == place


@pytest.mark.parametrize(("value", "fixed"), [(2.6, 0.03), (2.25, 0.0)])
def test_samples_to_decide_decides_in_80_percent_of_runs(value, fixed):
    """Each run draws the mean over samples and over trainings around the true value."""
    low, high, width = 2.0, 2.5, 0.4
    margin = (width**2 + fixed**2) ** 0.5
    first = Interval(value, value - margin, value + margin)
    more = samples_to_decide(first, 500, low, high, fixed)
    margin = (width**2 * 500 / (500 + more) + fixed**2) ** 0.5
    means = np.random.default_rng(0).normal(value, margin / 1.96, 10_000)
    verdicts = [place_in_band(Interval(m, m - margin, m + margin), low, high) for m in means]
    right = "inside" if low <= value <= high else "outside"
    assert np.mean([verdict == right for verdict in verdicts]) == pytest.approx(0.8, abs=0.015)


def test_samples_to_decide_is_0_if_decided_and_none_if_impossible():
    assert samples_to_decide(Interval(2.4, 2.35, 2.45), 1000, 2.0, 2.5) == 0
    assert samples_to_decide(Interval(2.7, 2.6, 2.8), 1000, 2.0, 2.5) == 0
    assert samples_to_decide(Interval(2.5, 2.4, 2.6), 1000, 2.0, 2.5) is None, "at the end"
    trained = samples_to_decide(Interval(2.6, 2.4, 2.8), 1000, 2.0, 2.5, fixed=0.1)
    assert trained is None, "more samples do not outweigh the trainings"

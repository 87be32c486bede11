"""MEASURE@EXTRACTOR: each side is a kind or a config; the name denotes a metric."""

import pytest

from psld.evaluation.settings import ReferenceSettings
from psld.grid.tables import EntryPart, merge_parts
from psld.metrics.named import UNRECORDED, compose_metric, metric_name
from psld.utils.errors import UserError

PAIRS = {
    "frechet@inception": "fid",
    "fid@fid-test": "fid-test",
    "inception-score-few@fid": "inception-score-few",
    "memorization@pixels": "memorization-pixels",
}


@pytest.mark.parametrize("pair", PAIRS)
def test_a_pair_gives_the_metric_of_the_config(pair):
    assert metric_name(pair) == PAIRS[pair]
    assert compose_metric(pair).identity() == compose_metric(PAIRS[pair]).identity()


def test_unrecorded_settings_are_the_free_settings():
    assert ReferenceSettings.free() == UNRECORDED


def test_a_pair_without_a_file_has_an_honest_name_and_shares_features():
    metric = compose_metric("precision@fid-test")
    assert (metric.name, metric.features) == ("precision-inception-test", "fid-train")
    assert (metric.reference_split, metric.truncated_reference) == ("test", True)
    metric = compose_metric("kernel@pixels")
    assert (metric.name, metric.features, metric.better) == ("kd-pixels", "fd-pixels", "smaller")
    with pytest.raises(UserError, match="kernel@pixels has the same name, kd-pixels, and other"):
        metric_name("kd-classifier@pixels")


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        ("recal@pixels", r"no measure 'recal' \(is recall meant\?\); there are: frechet, "),
        ("recall@pixel", r"no extractor 'pixel' \(is pixels meant\?\); there are: inception, "),
        ("memorization@fid-test", "memorization: set reference_split to train"),
        ("kid@classifier", r"kd-classifier\.yaml has this name and other settings; write a config"),
    ],
)
def test_a_wrong_pair_raises_a_user_error(pair, said):
    with pytest.raises(UserError, match=f"^metric={pair}: .*{said}"):
        metric_name(pair)


def test_grids_accept_pairs_also_with_placeholders():
    common = EntryPart(model="m", sampler="s", budget=1, samples=9, show="value")
    for word, name in (("recall@pixels", "recall-pixels"), ("{m}@fid", "kid")):
        shown = merge_parts((common, EntryPart(metric=word)), {"m": "kernel"}, "here")
        assert shown.metric == name
    with pytest.raises(ValueError, match="recall@pixel: no extractor"):
        EntryPart(metric="recall@pixel")

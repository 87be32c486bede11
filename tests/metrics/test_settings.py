"""Metric settings: honest names, no unknown keys, no torch."""

import subprocess
import sys

import pytest

from psld.commands.entry import CONFIGS
from psld.config.settings import parse
from psld.grid.resolution import Composer
from psld.metrics.settings import MetricSettings
from psld.utils.errors import UserError


def metric(name: str, kind: str, **more: object) -> MetricSettings:
    return parse(MetricSettings, {"name": name, "extractor": {"kind": kind}, **more}, "metric")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("fid", "classifier"),
        ("fid-test", "classifier"),
        ("distance", "classifier"),
        ("fd-classifiers", "classifier"),
        ("fd-classifier", "inception"),
        ("fidelity", "inception"),
    ],
)
def test_only_inception_features_are_called_fid(name, kind):
    right = {"inception": "fid", "classifier": "fd-classifier"}[kind]
    with pytest.raises(UserError, match=f"is named {right} or {right}-SUFFIX, not {name}"):
        metric(name, kind)


def test_honest_names_pass():
    assert metric("fid", "inception").extractor.kind == "inception"
    assert metric("fid-test", "inception", reference_split="test").reference_split == "test"
    assert metric("fd-classifier", "classifier").extractor.kind == "classifier"


@pytest.mark.parametrize("name", ["FID", "fid/../x", "fid ", ""])
def test_names_that_are_no_file_names_are_refused(name):
    with pytest.raises(UserError, match="metric: name"):
        metric(name, "inception")


def test_unknown_kinds_keys_and_values_are_named():
    with pytest.raises(UserError, match=r"extractor.*'inception', 'classifier'"):
        metric("fid", "resnet")
    with pytest.raises(UserError, match=r"reference_split.*'train', 'test' or 'all'"):
        metric("fid", "inception", reference_split="validation")
    with pytest.raises(UserError, match=r"batch_size.*greater than 0"):
        metric("fid", "inception", batch_size=0)
    with pytest.raises(UserError, match=r"unknown key extractor.*depth"):
        parse(
            MetricSettings,
            {"name": "fd-classifier", "extractor": {"kind": "classifier", "depth": 3}},
            "metric",
        )


@pytest.mark.parametrize("path", sorted((CONFIGS / "metric").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_metric_config_is_valid_and_named_after_its_file(path):
    content = Composer(CONFIGS).content("reference", [f"metric={path.stem}"], where=str(path))
    settings = parse(MetricSettings, content["metric"], where=str(path))
    assert settings.name == path.stem


def test_settings_import_no_torch():
    code = "import sys, psld.metrics.settings; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)

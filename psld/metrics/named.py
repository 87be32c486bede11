"""Metrics by name: a config in configs/metric, or MEASURE@EXTRACTOR."""

from hydra.core.config_store import ConfigStore

from psld.config.compose import compose_content
from psld.config.locations import config_file
from psld.config.settings import parse
from psld.metrics.settings import Extractor, FrechetSettings, Measure, MetricSettings
from psld.utils.errors import UserError

REMEDY = "write a config for this metric, with a suffix in its name"

UNRECORDED = {"data", "device", "extractor", "output"}
"""The settings of `psld reference` that are not recorded."""

_stored: dict[str, tuple[str, MetricSettings]] = {}
"""The metrics without a config file, by name. Each metric is stored with its MEASURE@EXTRACTOR."""


def compose_metric(word: str) -> MetricSettings:
    """Return the metric of a config or of MEASURE@EXTRACTOR. Raises UserError if it is unknown."""
    where, name = f"metric={word}", metric_name(word)
    content = compose_content("reference", [f"metric={name}"], where, UNRECORDED)
    return parse(MetricSettings, content["metric"], where)


def metric_name(word: str) -> str:
    """Return the name of a metric. A metric without a config file is registered with Hydra.

    Each side of MEASURE@EXTRACTOR is a kind, or the name of a config whose measure or extractor is
    used. The name is the standard name of the metric plus the suffixes of the configs. If EXTRACTOR
    is a config, the metric uses the features of this config, else the features of the Fréchet
    distance with this extractor. If a config with the name of the metric exists and MEASURE is a
    kind, this config supplies the options of the measure. All other settings of this config must
    agree with the metric.

    Raises UserError if a side is unknown, if the sides do not fit, or if a different metric has the
    same name.
    """
    measure, at, extractor = word.partition("@")
    if not at:
        return word
    where, suffix = f"metric={word}", ""
    if config_file("metric", extractor):
        base = compose_metric(extractor)
    else:
        part = parse(Extractor, {"kind": extractor}, where)
        name = FrechetSettings().name_with(part)
        base = parse(MetricSettings, {"name": name, "extractor": part.model_dump()}, where)
        if file := config_file("metric", name):
            base = compose_metric(name)
            if base.extractor.kind != part.kind:
                raise UserError(f"{where}: {file} has this name and other settings; {REMEDY}")
        else:
            _store(base, f"frechet@{extractor}")
    if config_file("metric", measure):
        source = compose_metric(measure)
        chosen, suffix = source.measure, source.suffix
    else:
        chosen = parse(Measure, {"kind": measure}, where)
    name = chosen.name_with(base.extractor) + suffix + base.suffix
    known = compose_metric(name) if (file := config_file("metric", name)) else None
    if known and known.measure.kind == measure and not config_file("metric", measure):
        chosen = known.measure
    content = {"name": name, "measure": chosen.model_dump(mode="json")}
    meant = parse(MetricSettings, base.model_dump(mode="json") | content, where)
    if known is None:
        _store(meant, word)
    elif known.identity() != meant.identity() | {"features": known.features}:
        raise UserError(f"{where}: {file} has this name and other settings; {REMEDY}")
    return name


def _store(metric: MetricSettings, word: str) -> None:
    """Register a metric with Hydra. Raises UserError if a different metric has the same name."""
    other, known = _stored.get(metric.name, (word, metric))
    if other != word and known.identity() != metric.identity():
        wrong = f"{other} has the same name, {metric.name}, and other settings"
        raise UserError(f"metric={word}: {wrong}; {REMEDY}")
    _stored[metric.name] = word, metric
    content = metric.model_dump(mode="json", exclude={"better"})
    ConfigStore.instance().store(metric.name, content, group="metric")

"""The origins of results, as tables: weights and their settings, samplers, software."""

import json
from collections import Counter
from collections.abc import Iterable

from psld.config.settings import Settings
from psld.grid.entries import TableEntry
from psld.grid.records import Grid
from psld.metrics.results import CellResult, Weights
from psld.report.table import Text


def origins_of(grid: Grid, entries: Iterable[TableEntry]) -> list[Text]:
    """Return tables of models, guides, samplers, metrics and software; none is empty."""
    entries = list(entries)
    results = [result for entry in entries for result in entry.results]
    weights = {r.model.name: r.model for r in results}
    guides = {r.guide.name: r.guide for r in results if r.guide}
    columns = ["name", "dataset", "steps", "weights (SHA-256)", "settings"]
    texts = [
        _text(title, columns, [[w.name, *_trained(w)] for w in trained.values()])
        for title, trained in (("Models", weights), ("Guides", guides))
    ]
    samplers = [[name, _as_json(own.settings)] for name, own in grid.samplers.items()]
    texts.append(_text("Samplers", ["name", "settings"], samplers))
    metrics = [[name, _as_json(settings)] for name, settings in grid.metrics.items()]
    texts.append(_text("Metrics", ["name", "settings"], metrics))
    software = Counter(map(_software, results))
    lines = [[*made, str(number)] for made, number in software.items()]
    columns = ["evaluated with", "revision", "precision", "sampled on", "results"]
    texts.append(_text("Software and devices", columns, lines))
    return [text for text in texts if text.lines]


def _trained(weights: Weights) -> list[str]:
    settings = {k: v for k, v in weights.settings.items() if k != "dataset"}
    return [
        weights.settings["dataset"]["name"],
        "" if weights.step is None else str(weights.step),
        weights.weights_sha256,
        json.dumps(settings),
    ]


def _as_json(settings: Settings) -> str:
    return json.dumps(settings.model_dump(mode="json", exclude_none=True))


def _software(result: CellResult) -> tuple[str, ...]:
    """Return versions, revision and precision of the evaluation, and the device of sampling."""
    versions = ", ".join(
        f"{name} {version}" for name, version in result.versions.items() if version
    )
    precision = ", ".join(f"{name}: {value}" for name, value in result.precision.items())
    return versions, result.git_revision or "", precision, result.sampling_device


def _text(title: str, columns: list[str], lines: list[list[str]]) -> Text:
    return Text(title=title, caption="", headings=1, columns=columns, lines=lines)

"""The origins of results, as tables: weights and their settings, samplers, software."""

import json
from collections import Counter
from collections.abc import Iterable

from psld.grid.entries import TableEntry
from psld.grid.resolved import Grid
from psld.grid.results import CellResult, LikelihoodResult, Weights
from psld.report.table import Text


def origins_of(grid: Grid, entries: Iterable[TableEntry]) -> list[Text]:
    """Return tables of models, guides, samplers, metrics and software; none is empty."""
    entries = list(entries)
    results = [result for entry in entries for result in entry.results]
    likelihoods = [entry.likelihood for entry in entries if entry.likelihood]
    weights = {r.model.name: r.model for r in (*results, *likelihoods)}
    guides = {r.guide.name: r.guide for r in results if r.guide}
    columns = ["name", "dataset", "steps", "weights (SHA-256)", "settings"]
    texts = [
        _text(title, columns, [[w.name, *_trained(w)] for w in trained.values()])
        for title, trained in (("Models", weights), ("Guides", guides))
    ]
    samplers = [[n, " ".join(s.overrides)] for n, s in grid.samplers.items()]
    texts.append(_text("Samplers", ["name", "settings"], samplers))
    metrics = [[name, json.dumps(settings)] for name, settings in grid.metrics.items()]
    texts.append(_text("Metrics", ["name", "settings"], metrics))
    software = Counter(
        [
            *(_software(result, result.sampling_device) for result in results),
            *(_software(result, result.device) for result in likelihoods),
        ]
    )
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


def _software(result: CellResult | LikelihoodResult, device: str) -> tuple[str, ...]:
    """Return versions, revision and precision of the evaluation, and the device of sampling."""
    versions = ", ".join(
        f"{name} {version}" for name, version in result.versions.items() if version
    )
    precision = ", ".join(f"{name}: {value}" for name, value in result.precision.items())
    return versions, result.git_revision or "", precision, device


def _text(title: str, columns: list[str], lines: list[list[str]]) -> Text:
    return Text(title=title, caption="", headings=1, columns=columns, lines=lines)

"""The notes under a table: what its entries rest on, and the scale of its numbers."""

from collections import Counter
from collections.abc import Iterable
from typing import cast

from psld.evaluation.results import CellResult
from psld.grid.entries import Entry, Status
from psld.grid.tables import Table
from psld.sampling.settings import gaussians
from psld.utils.code import MAKE_IMAGES, MEASURE, package_code

MISSING = "–"
LISTED = 5  # the most names that a note lists
MARKS: dict[Status, str] = {
    "reproduced": " ✓",
    "off": " ✗",
    "agrees for these weights": " ✓¹",
    "differs for these weights": " ✗¹",
    "agrees for imported weights": " ✓²",
    "differs for imported weights": " ✗²",
    "undecided": " ?",
}


def notes(table: Table, rows: list[list[Entry]]) -> Iterable[str]:
    entries = [entry for row in rows for entry in row]
    yield from table.footnotes
    counts = Counter(entry.status for entry in entries)
    if not_run := sum(entry.status == "not run" and not entry.void for entry in entries):
        yield f"{not_run} of {len(entries)} entries have not been run ({MISSING})."
    for reason in dict.fromkeys(reason for entry in entries for reason in entry.void):
        yield f"No value ({MISSING}) of {reason}."
    if others := list(dict.fromkeys(path for entry in entries for path in entry.others)):
        yield (
            f"Of other records, so not shown: {_listed(others, ', ')}. Delete them, and the "
            "workflow makes them again."
        )
    yield from made_by_other_code(result for entry in entries for result in entry.results)
    if worse := [entry.label for entry in entries if entry.is_worse_than_noise]:
        yield (
            "Farther from the images than pure noise: not trained enough, or sampled in too few "
            f"steps: {_listed(worse, '; ')}."
        )
    for start in ("gaussian", "mixture"):
        these = [e for e in entries if e.results and e.results[0].sampler.get("start") == start]
        if names := sorted({entry.shown.sampler for entry in these}):
            yield f"Starts from {_law(start, these)} of the training images: {', '.join(names)}."
    if band := table.band:
        yield (
            f"Band (✓ ✗): {band.absolute:g} or {band.relative:.0%} of the paper's value, whichever "
            f"is wider (network evaluations: {band.relative:.0%}). {band.reason}"
        )
    models = [r.model for entry in entries for r in entry.results]
    weights = [model.imported for model in models]
    if files := {w.sha256: f"{w.file} (SHA-256 {w.sha256})" for w in weights if w}:
        yield f"² Imported weights, not trained here: {'; '.join(files.values())}."
    if sources := {m.name: f"{m.name} from {m.init['model']}" for m in models if m.init}:
        yield f"Trained from the weights of other models: {_listed([*sources.values()], ', ')}."
    if saved := sorted({model.name for model in models if model.saved}):
        yield f"Saved from Python (psld.save), not trained by a command: {_listed(saved, ', ')}."
    if counts["undecided"]:
        note = f"{counts['undecided']} of {len(entries)} entries are undecided (?)"
        needs = Counter(entry.needs for entry in entries)
        if most := max(entry.more_samples or 0 for entry in entries):
            note += f"; up to {most:,} more samples (further seeds) can decide {needs['samples']}"
        if needs["trainings"]:
            note += f"; only more trainings can decide {needs['trainings']}"
        yield f"{note}."


def made_by_other_code(results: Iterable[CellResult]) -> Iterable[str]:
    """Say how many models and cells were made by other code than that of psld here."""
    trains, measures = (
        package_code(*MAKE_IMAGES),
        package_code(*MAKE_IMAGES, *MEASURE),
    )
    results = list(results)
    models = {r.model.weights_sha256: r.model.code for r in results if r.model}
    cells = {r.kept_sha256: r.code for r in results}
    pairs = (("model", models, trains), ("cell", cells, measures))
    others = (
        (kind, sum(code not in (None, now) for code in codes.values()))
        for kind, codes, now in pairs
    )
    if counts := [f"{count} {kind}{'s' * (count > 1)}" for kind, count in others if count]:
        yield f"Made by other code of psld than that here: {', '.join(counts)}."


def _listed(names: list[str], comma: str) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return comma.join(names[:LISTED]) + more


def _law(start: str, entries: Iterable[Entry]) -> str:
    if start == "gaussian":
        return "the mean and covariance"
    results = [result for entry in entries for result in entry.results]
    K = {cast(int, result.gaussians) for result in results}
    guided = any("label" in result.sampler["guidance"] for result in results)
    return "a mixture of Gaussians" if guided else gaussians(K)  # a class has its own K


def scales(entries: list[Entry]) -> Iterable[str]:
    """Yield the scale of each metric, and of each dataset if there are several."""
    results = [entry.results[0] for entry in entries if entry.results]
    kinds = [(r.metric["name"], r.model.settings["dataset"]["name"]) for r in results]
    several = len({dataset for _, dataset in kinds}) > 1
    for (metric, dataset), result in dict(zip(kinds, results, strict=True)).items():
        name = f"{metric} on {dataset}" if several else metric
        note = f"Scale of {name}: standard normal noise has {_significant(result.noise)}"
        if result.floor is not None:
            count = f" ({result.floor_samples:,} images)" if result.floor_samples else ""
            note += f", the {result.held_out}{count} {_significant(result.floor)}"
        if result.extractor_test_accuracy is not None:
            note += f"; the classifier's test accuracy is {result.extractor_test_accuracy:.3f}"
        yield f"{note}."


def _significant(number: float) -> str:
    return f"{float(f'{number:.3g}'):,}".removesuffix(".0")

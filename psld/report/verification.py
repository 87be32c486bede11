"""Recompute every number of a certificate, and compare it with what results and tables say.

Recomputing reads no result: it takes the kept features or block statistics of each cell, those of
the reference, the manifests and the grid.
"""

import csv
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

from psld.config.settings import MadeRecord, parse, write_record
from psld.grid import paths
from psld.grid.entries import TableEntry, read_table
from psld.grid.places import Evaluation
from psld.grid.results import CellResult, CellResults, LikelihoodResult
from psld.metrics.classifier import read_extractor_manifest as read_extractor
from psld.metrics.evaluation import Measurement, load_kept
from psld.metrics.likelihood import LikelihoodShard, summary
from psld.metrics.measure import Reference, scale
from psld.metrics.reference_folder import (
    FEATURES,
    ReferenceManifest,
    load_reference,
    read_reference_manifest,
)
from psld.metrics.settings import MetricSettings
from psld.report.certification import GRID, cells_folder, texts_of_tables
from psld.report.differences import differences
from psld.report.stated import Entries
from psld.utils.errors import UserError
from psld.utils.tensors import read_tensors

SOFTWARE = set(MadeRecord.model_fields)
"""The fields of a result with the software that made it. Nothing recomputes them."""

COMPUTED = {"estimate", "nearest", "class_accuracy", "floor", "noise"}
"""The fields of a result that are computed from features."""

OUTCOMES = ("hold", "wrong", "not recomputed", "not run")
"""The possible outcomes of an entry of a table."""


class Verification:
    """The recomputed numbers of a certificate, and everything that does not hold."""

    def __init__(self, certificate: Path, folder: Path) -> None:
        """Unpack a certificate into an empty folder and recompute its numbers.

        Raises UserError, with the name of the entry, if an entry is damaged or malformed.
        """
        self.entries = Entries(certificate, folder / "entries")
        self.certificate, self.folder = certificate, self.entries.folder
        self.grid, self.wrong = self.entries.grid, self.entries.wrong
        self.results = folder / "recomputed"
        """The folder of the recomputed results, as `read_table` takes it."""
        self.tables: dict[str, Counter[str]] = {}
        """The number of entries of each table by outcome."""
        self._not_recomputed: set[Evaluation] = set()
        self._references: dict[tuple[str, str], tuple[Reference | None, ReferenceManifest]] = {}
        self._scales: dict[tuple[str, str], dict[str, float | None]] = {}
        for cell in self.grid.cells:
            path = paths.cell_result(self.grid.name, cell)
            if path in self.entries.index.sha256:  # so it is no path that leads out of the folder
                with self.entries.named(path):
                    self._check_cell(cell, path)
        for model in self.grid.file.likelihood_models():
            path = paths.likelihood(self.grid.name, model)
            if path in self.entries.index.sha256:
                with self.entries.named(path):
                    self._check_likelihood(model, path)
        with self.entries.named("tables"):
            self._check_tables()

    def _check_cell(self, cell: str, path: str) -> None:
        """Recompute the results of a cell, write them, and compare the certificate's."""
        said = CellResults.read(self.folder / path)
        evaluations = self.grid.evaluations_by_cell[cell]
        if len(said.results) != len(evaluations):
            raise UserError(f"{len(said.results)} results, but the grid has {len(evaluations)}")
        computed = CellResults(results=tuple(self._recomputed(cell, evaluations, said.results)))
        write_record(self.results / f"{cell}.json", computed)
        contents = (each.model_dump(mode="json")["results"] for each in (computed, said))
        for key, ours, theirs in differences(*contents):
            self.wrong.append(f"{path}: {key} is {theirs}, recomputed {ours}")

    def _recomputed(
        self, cell: str, evaluations: Sequence[Evaluation], said: Sequence[CellResult]
    ) -> Iterator[CellResult]:
        """Yield the recomputed results of a cell. Of `said`, only `SOFTWARE` is taken over.

        Without features in the certificate, `COMPUTED` is taken over too, and the results are noted
        as not recomputed.
        """
        kept_path = self.folder / paths.kept(paths.cell_result(self.grid.name, cell))
        kept_sha256 = read_tensors(kept_path, "evaluation", "evaluate again").sha256
        gathered = load_kept(kept_path, kept_sha256)
        model, sampler = cell.split("/")
        composed = self.grid.samplers[sampler]
        weights = self.entries.weights_of_model(model)
        guide = composed.guide and self.entries.weights_of_guide(composed.guide)
        for evaluation, recorded in zip(evaluations, said, strict=True):
            name = evaluation.metric
            metric = parse(MetricSettings, self.grid.metrics[name], where=f"{GRID}: {name}")
            reference, manifest = self._reference(self.grid.models[model].dataset, metric)
            measurement = Measurement(metric, evaluation.samples)
            if reference and (metric.features, evaluation.samples) in gathered.samples:
                numbers = gathered.numbers(measurement, reference)
                numbers |= self._scales_of(manifest.dataset, metric, reference)
            else:
                numbers = {key: getattr(recorded, key) for key in COMPUTED}
                self._not_recomputed.add(evaluation)
            yield CellResult(
                **gathered.facts(measurement, manifest),
                **numbers,
                kept_sha256=kept_sha256,
                model=weights,
                guide=guide,
                sampler=composed.settings,
                seed=self.grid.file.seed_of(sampler),
                **recorded.model_dump(include=SOFTWARE),
            )

    def _check_likelihood(self, model: str, path: str) -> None:
        """Recompute the bits per dimension of a model from those of each image."""
        said = LikelihoodResult.read(self.folder / path)
        names = sorted(
            n for n in self.entries.index.sha256 if Path(n).parent == Path(path).with_suffix("")
        )
        shards = [LikelihoodShard.load(self.folder / name) for name in names]
        weights = self.entries.weights_of_model(model)
        wanted = self.grid.likelihood.model_dump()
        first = 0
        for name, shard in zip(names, shards, strict=True):
            origin = shard.origin.model_dump()
            for key in origin.keys() & wanted.keys() - {"images"}:
                self.entries.expect(f"{name}: {key}", origin[key], wanted[key])
            made_of = (weights.weights_sha256, weights.dataset_digest, first)
            said_of = (origin["weights_sha256"], origin["dataset_digest"], origin["first"])
            self.entries.expect(f"{name}: weights, dataset, first image", said_of, made_of)
            first += len(shard.bits)
        computed = LikelihoodResult(
            **summary(shards),
            likelihood=self.grid.likelihood,
            model=weights,
            **said.model_dump(include=SOFTWARE),
        )
        write_record(self.results / model / "likelihood.json", computed)
        contents = (each.model_dump(mode="json") for each in (computed, said))
        for key, ours, theirs in differences(*contents):
            self.wrong.append(f"{path}: {key} is {theirs}, recomputed {ours}")

    def _reference(
        self, dataset: str, metric: MetricSettings
    ) -> tuple[Reference | None, ReferenceManifest]:
        """Read a metric's reference; None without its features. All its cells share it."""
        if (dataset, metric.features) not in self._references:
            place = paths.reference_folder(dataset, metric.features)
            where = f"{place}/manifest.json"
            if (self.folder / place / FEATURES).exists():
                reference, manifest = load_reference(self.folder / place)
            else:
                reference, manifest = None, read_reference_manifest(self.folder / place)
            said, wanted = manifest.extractor.identity(), metric.extractor.identity()
            self.entries.expect(f"{where}: extractor", said, wanted)
            digest = self.entries.dataset_digest(dataset)
            self.entries.expect(f"{where}: dataset_digest", manifest.dataset_digest, digest)
            if metric.extractor.kind == "classifier":
                folder = paths.extractor_folder(dataset, metric.features)
                extractor = read_extractor(self.folder / folder)
                said = extractor.digest, extractor.test_accuracy, extractor.dataset_digest
                wanted = manifest.extractor_digest, manifest.extractor_test_accuracy, digest
                self.entries.expect(
                    f"{folder}/manifest.json: digest, accuracy, dataset", said, wanted
                )
            self._references[dataset, metric.features] = (reference, manifest)
        return self._references[dataset, metric.features]

    def _scales_of(
        self, dataset: str, metric: MetricSettings, reference: Reference
    ) -> dict[str, float | None]:
        if (dataset, metric.name) not in self._scales:
            self._scales[dataset, metric.name] = scale(metric, reference)
        return self._scales[dataset, metric.name]

    def _check_tables(self) -> None:
        """Compare the tables with those of the recomputed results.

        Markdown shows rounded numbers, which may differ in their last digit where the results
        differ by rounding. So its text is compared with that of the certificate's own results.
        """
        texts = texts_of_tables(self.grid, self.results)
        stated = texts_of_tables(self.grid, cells_folder(self.grid, self.folder))
        for name in self.grid.file.tables:
            path = paths.table(self.grid.name, name)
            entries = [e for row in read_table(self.grid, name, self.results) for e in row]
            self.tables[name] = self._check_csv(f"{path}.csv", texts[f"{path}.csv"], entries)
            wanted = stated[f"{path}.md"].splitlines()
            found = self.entries.text(f"{path}.md").splitlines()
            for number, (line, said) in enumerate(zip_longest(wanted, found), start=1):
                self.entries.expect(f"{path}.md: line {number}", said, line)

    def _check_csv(self, path: str, text: str, entries: Sequence[TableEntry]) -> Counter[str]:
        """Compare each line of a table, which is an entry, and count the entries by outcome."""
        ours, theirs = (
            list(csv.DictReader(each.splitlines())) for each in (text, self.entries.text(path))
        )
        self.entries.expect(f"{path}: number of entries", len(theirs), len(ours))
        outcomes: Counter[str] = Counter()
        for entry, computed, said in zip(entries, ours, theirs, strict=False):
            label = f"{' '.join(entry.row.label)}, {entry.column}"
            found = list(differences(computed, said))
            for key, right, wrong in found:
                self.wrong.append(f"{path}: {label}: {key} is {wrong}, recomputed {right}")
            if entry.row.literature:
                continue
            if entry.value is None:
                outcomes["not run"] += 1
            elif found:
                outcomes["wrong"] += 1
            elif entry.show != "nfe" and not self._is_recomputed(entry):
                outcomes["not recomputed"] += 1
            else:
                outcomes["hold"] += 1
        return outcomes

    def _is_recomputed(self, entry: TableEntry) -> bool:
        """Check that an entry was computed again, for each of its seeds."""
        if entry.evaluation is None:
            return True  # a likelihood
        return self._not_recomputed.isdisjoint(self.grid.file.replicates(entry.evaluation))


def merge(verified: Sequence[Verification], results: Path) -> None:
    """Write the recomputed results of several certificates of one grid into one folder.

    Raises UserError if the grids differ, or if two certificates have other results of a cell.
    """
    first = verified[0]
    for each in verified:
        if each.grid != first.grid:
            raise UserError(f"{each.certificate}: not of the same grid as {first.certificate}")
        for file in sorted(each.results.rglob("*.json")):
            target = results / file.relative_to(each.results)
            if target.exists() and target.read_text() != file.read_text():
                cell = target.relative_to(results).with_suffix("")
                raise UserError(
                    f"{each.certificate}: {cell}: another certificate has other results"
                )
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)

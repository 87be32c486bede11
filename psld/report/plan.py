"""Describe a grid: its parts, its cost in GPU hours (`FORMULA`), and its time on one core."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import torch
from tabulate import tabulate

from psld.config.settings import Settings, value_in
from psld.evaluation.results import CellResults
from psld.grid.cells import Grid
from psld.grid.entries import Entry
from psld.grid.figures import all_figures
from psld.grid.records import TrainedRecord
from psld.grid.rows import cells_behind, distances, entries_in, paper_values
from psld.models.build import build, build_process, forward_flops, seconds_per_image, with_network
from psld.models.settings import TRAIN_FACTOR, ModelSettings
from psld.report.table import made_by_other_code
from psld.sampling.settings import shards_needed
from psld.utils.code import code_digest
from psld.utils.files import digest_of, kept_in_cache
from psld.utils.numbers import Size
from psld.utils.progress import about

N = TypeVar("N", int, float)

COUNTED = Path(".cache/counted")
"""The cache folder for the FLOPs of networks."""
CODE = "diffusion", "networks", "training"
"""The subpackages whose code determines the FLOPs of a network."""

ADAPTIVE_EVALUATIONS = 200
"""The number of network evaluations per image that is assumed for an adaptive sampler if no table
has a number of the paper."""

FORMULA = (
    "The time of a training is proportional to its images, and the time of samples to their "
    "network evaluations (samples × NFE). Speeds are measured in earlier runs here, also on CPUs. "
    "Without a run, the time is the FLOPs divided by sustained_tflops; RK45, which needs full fp32 "
    "precision, takes six times as long. "
    f"FLOPs: GFLOPs × ({TRAIN_FACTOR} × training images + samples × NFE)."
)

UNKNOWN = "GPU hours are unknown (?) for networks that have not been run: add sustained_tflops=…"


@dataclass
class Work:
    trained: list[TrainedRecord] = field(default_factory=list)
    training_images: int = 0
    evaluations: float = 0
    """Network evaluations, summed over all samples. A guide evaluation with its gradient counts as
    two evaluations."""
    adaptive: float = 0
    """The network evaluations in `evaluations` that adaptive samplers (RK45) make in full fp32."""

    def flops(self, per_image: float) -> float:
        """Return the FLOPs of this work. `per_image`: the FLOPs of a forward pass per image."""
        return per_image * (TRAIN_FACTOR * self.training_images + self.evaluations)


def description(grid: Grid, tflops: float | None) -> str:
    kinds = {"model": grid.models, "guide": grid.guides, "cell": grid.measured_cells}
    counts = (f"{len(each)} {kind}{'s' * (len(each) != 1)}" for kind, each in kinds.items())
    head = f"Grid {grid.name}: {', '.join(counts)}."
    tables = table(table_sizes(grid), ["table", "models", "cells", "shards"])
    jobs = table(jobs_by_stage(grid).items(), ["stage", "jobs"])
    measured = (cell.result for cell in grid.measured_cells if Path(cell.result).exists())
    results = chain.from_iterable(CellResults.read(path).results for path in measured)
    return "\n\n".join([head, tables, jobs, cost(grid, tflops), *made_by_other_code(results)])


def table(rows: Any, headers: list[str]) -> str:
    """Return a table as text, with numbers on the right."""
    right = ["left", *["right"] * (len(headers) - 1)]
    rows = [[f"{cell:,}" if isinstance(cell, int) else cell for cell in row] for row in rows]
    return tabulate(rows, headers, tablefmt="github", colalign=right, disable_numparse=True)


def readable(number: float | None) -> str:
    """Format a number with one decimal, or with two significant digits below 1."""
    if number is None:
        return "?"
    return f"{number:,.1f}" if number >= 1 or number == 0 else f"{number:.2g}"


def table_sizes(grid: Grid) -> Iterator[tuple[str, int, int, int]]:
    """Yield the name of each table with its numbers of models, cells and shards.

    Tables may share models, cells and shards.
    """
    for name in grid.file.tables:
        cells = cells_behind(entries_in(grid, name))
        models = {cell.model.name for cell in cells}
        yield name, len(models), len(cells), sum(cell.shards for cell in cells)


def jobs_by_stage(grid: Grid) -> dict[str, int]:
    """Return the number of jobs in each stage if nothing of the grid has been run yet."""
    guides, models = grid.guides.values(), grid.models.values()
    features = grid.features.values()
    jobs = {
        "prepare": len(grid.datasets),
        "start": len({cell.start.file for cell in grid.cells.values() if cell.start}),
        "train_extractor": sum(each.extractor is not None for each in features),
        "reference": len(features),
        "train": sum(model.made_by == "train" for model in models),
        "import": sum(each.made_by == "import" for each in (*models, *guides)),
        "train_guide": sum(guide.made_by == "train" for guide in guides),
        "sample": sum(len(cell.ranges) for cell in grid.cells.values()),
        "evaluate": len(grid.measured_cells),
        "tabulate": len(grid.file.tables),
        "figure": len(all_figures(grid)),
        "page": 1,
        "certify": 1,
    }
    return {stage: number for stage, number in jobs.items() if number}


def _network(trained: TrainedRecord) -> tuple[Settings, Size, int]:
    """Return the settings that determine the FLOPs of a network."""
    settings = trained.settings
    return settings.network, settings.dataset.image_size, settings.dataset.channels


def work_by_network(grid: Grid) -> dict[str, Work]:
    """Return the work of each network, keyed by the network's name in configs/network.

    If several networks share a name, the keys of the second and later networks also contain, in
    parentheses, the name of the first model or guide with this network.
    """
    names: dict[tuple[Settings, Size, int], str] = {}
    works: dict[str, Work] = {}
    guides = ((guide, grid.file.guides[name].overrides) for name, guide in grid.guides.items())
    models = ((model, grid.file.overrides(name)) for name, model in grid.models.items())
    trained_here = {each.manifest for each in grid.models.values() if each.made_by == "train"}
    for trained, overrides in (*models, *guides):
        name = value_in(overrides, "network") or "default"
        if name in works:
            kind = "guide " if trained.settings.makes == "guide" else ""
            name = f"{name} ({kind}{trained.name})"
        work = works.setdefault(names.setdefault(_network(trained), name), Work())
        work.trained.append(trained)
        if trained.made_by == "train" and trained.trained_with not in trained_here:
            training = trained.settings.training
            work.training_images += training.steps * training.batch_size
    papers = paper_values(grid).items()
    printed = {cell: numbers["nfe"] for (cell, _), numbers in papers if "nfe" in numbers}
    for cell in grid.cells.values():
        adaptive = printed.get(cell, ADAPTIVE_EVALUATIONS)
        fixed = cell.sampler.settings.evaluations
        per_image = adaptive if fixed is None else fixed
        evaluations = cell.shards * cell.options.shard_size * per_image
        for trained, factor in (cell.model, 1), (cell.guide, 2):
            if trained:
                work = works[names[_network(trained)]]
                work.evaluations += factor * evaluations
                work.adaptive += factor * evaluations * (fixed is None)
    return works


def cost(grid: Grid, tflops: float | None) -> str:
    """Describe the work and its GPU hours, estimated from earlier runs or from a GPU's TFLOP/s."""
    works = work_by_network(grid)
    per_image = {network: gigaflops(work.trained[0]) for network, work in works.items()}
    flops = {n: work.flops(per_image[n]) for n, work in works.items()}
    total = sum(flops.values())
    rows, hours, measured = [], [], [entry.read() for entry in distances(grid)]
    for network, work in works.items():
        train, sample = earlier_throughput(measured, work)
        fast = tflops and 1e3 * tflops / per_image[network]
        training = _hours(work.training_images, train or (fast and fast / TRAIN_FACTOR))
        slowed = 0 if sample else 5 * work.adaptive
        sampling = _hours(work.evaluations + slowed, sample or fast)
        hours += [training, sampling]
        row = {
            "network": network,
            "models": len(work.trained),
            "GFLOPs": readable(per_image[network]),
            "training images (M)": readable(work.training_images / 1e6),
            "samples × NFE (M)": readable(work.evaluations / 1e6),
            "share of FLOPs": f"{flops[network] / (total or 1):.1%}",
            "training (GPU h)": readable(training),
            "sampling (GPU h)": readable(sampling),
        }
        rows.append(row)
    last = f"Sum: {readable(sum(hours))} GPU hours." if None not in hours else UNKNOWN
    printed = table([row.values() for row in rows], list(rows[0]))
    firsts = {network: work.trained[0] for network, work in works.items()}
    models = {n: first for n, first in firsts.items() if first.settings.makes == "model"}
    least = min(models, key=lambda network: per_image[network])
    steps, model = total / TRAIN_FACTOR / (per_image[least] or 1), models[least]
    seconds = steps * built(seconds_per_image, model.settings)
    core = (
        f"On one core of this machine: {about(seconds)} for "
        f"trainings and samples, by a training step of {model.name} that was measured now. The "
        "features of metrics (FID: 0.2 seconds per image) and the start of each job are not "
        "included: some seconds, and on a cluster the wait in the queue."
    )
    return "\n\n".join([printed, FORMULA, f"All of it: {total * 1e9:.3g} FLOPs.", last, core])


def gigaflops(trained: TrainedRecord) -> float:
    """Return the GFLOPs of a forward pass per image; a multiply-add counts as two FLOPs."""
    settings, dataset = trained.settings.model(), trained.settings.dataset
    objective, process = settings.training.objective, settings.process
    parts: list[Settings] = [settings.network, objective]
    shapes = [dataset.image_size, settings.num_classes]
    if process.is_data:
        parts.append(process)
    else:
        shapes = [*objective.channels(dataset, process.build()), *shapes]
    decides = [part.model_dump(mode="json") for part in parts]
    decides = digest_of([*decides, *shapes, code_digest(*CODE), torch.__version__])

    return kept_in_cache(f"{COUNTED.name}/{decides}", lambda: built(_flops, settings)) / 1e9


def _flops(settings: ModelSettings) -> int:
    process = build_process(settings)
    with torch.device("meta"):
        return forward_flops(build(settings, process).eval())


def built(count: Callable[[Any], N], settings: Any) -> N:
    """Return `count(settings)`, where `count` builds a network and measures it.

    Custom parts are built in a child process, because this process imports none.
    """
    parts = settings.network, settings.process, settings.training.objective
    if not any(part.is_data for part in parts):
        return count(settings)
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(_of_classes, count, settings).result()


def _of_classes(count: Callable[[Any], N], settings: Any) -> N:
    return count(with_network(settings))


def _hours(images: float, per_second: float | None) -> float | None:
    if images == 0:
        return 0.0
    return None if per_second is None else images / per_second / 3600


def earlier_throughput(measured: Sequence[Entry], work: Work) -> tuple[float | None, float | None]:
    """Return the speed per GPU of a network in earlier trainings, and in earlier sampling.

    The units are images/s, and images × NFE per second. None: there is no earlier run.
    """
    trained = train_seconds = sampled = sample_seconds = 0.0
    for record in work.trained:
        if Path(record.manifest).exists():
            manifest = record.read_manifest()
            if manifest.seconds and manifest.images_seen and manifest.ranks:
                trained += manifest.images_seen
                train_seconds += manifest.seconds * manifest.ranks
    for entry in measured:
        for cell, result in entry.by_cell.items():
            if cell.model in work.trained and cell.sampler.settings.guidance.is_none and result.nfe:
                size = cell.options.shard_size
                sampled += shards_needed(result.samples, size) * size * result.nfe
                sample_seconds += result.sampling_seconds
    return (
        trained / train_seconds if train_seconds else None,
        sampled / sample_seconds if sample_seconds else None,
    )

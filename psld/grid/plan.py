"""The parts of a grid and its cost in GPU hours. Imports no torch.

    seconds = training images / (train images/s) + samples × NFE / (sample images/s)

The sum runs over models and cells. Throughputs are given by the user, or else measured in earlier
runs, or else derived from the network's FLOPs; none is guessed.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from tabulate import tabulate

from psld.config.settings import Settings
from psld.grid.entries import paper_values
from psld.grid.figures import figures_of
from psld.grid.loading import GridCommandSettings
from psld.grid.resolved import ComposedTraining, Grid, shards_of_cells
from psld.grid.results import read_result
from psld.sampling.settings import shards_needed
from psld.training.manifest import MANIFEST, GuideManifest, ModelManifest, read_manifest
from psld.training.settings import TRAIN_FACTOR

SECONDS_PER_HOUR = 3600

Kind = Literal["model", "guide"]

DEFAULT_NETWORKS: dict[Kind, str] = {"model": "demo", "guide": "guide-demo"}
"""The networks that configs/train.yaml and configs/train_guide.yaml choose."""

UNKNOWN = "?"

FORMULA = (
    "GPU hours = (training images / (train images/s) + samples × NFE / (sample images/s)) / 3600, "
    "with images/s of one GPU through a training step and through one network evaluation: those "
    "that are given, or else of what has been run here, on CPUs too. "
    f"FLOPs: GFLOPs × ({TRAIN_FACTOR} × training images + samples × NFE)."
)


class Throughput(Settings):
    """Images per second on one GPU; null if unknown."""

    train: float | None = Field(None, gt=0)
    """Through a training step."""
    sample: float | None = Field(None, gt=0)
    """Through one network evaluation."""


class PlanSettings(GridCommandSettings):
    """Settings of `psld plan`."""

    list: Literal["cells", "figures"] | None
    """List the names of all cells, or of all figures, instead of the plan."""
    throughput: dict[str, Throughput]
    """Images per second on one GPU, by the network's name in configs/network:
    throughput.demo.train=900 through a training step, throughput.demo.sample=9000 through one
    network evaluation."""
    sustained_tflops: float | None = Field(None, gt=0)
    """TFLOP/s of a GPU, to derive unknown throughputs; null leaves them unknown."""
    adaptive_evaluations: int = Field(gt=0)
    """Network evaluations of an adaptive sampler if no table gives the paper's number."""
    models: Path
    """Folder of the grid's models."""
    guides: Path
    """Folder of the grid's guides."""


Gigaflops = Callable[[Kind, ComposedTraining], float]
"""A function that returns the GFLOPs of one image through a network."""


@dataclass
class Work:
    """The work of one network in a grid."""

    kind: Kind
    trained: list[str] = field(default_factory=list)
    """The models or guides with this network."""
    training_images: int = 0
    evaluations: float = 0
    """Images × network evaluations, over all samples; a guide and its gradient count as two."""


def plan_of(grid: Grid, settings: PlanSettings, gigaflops: Gigaflops) -> str:
    """Return the plan of a grid as text."""
    head = (
        f"Grid {grid.name}: {len(grid.models)} models, {len(grid.guides)} guides, "
        f"{len(grid.cells)} cells."
    )
    tables = table(tables_of(grid), ["table", "models", "cells", "shards"])
    jobs = table(jobs_of(grid).items(), ["stage", "jobs"])
    return "\n\n".join([head, tables, jobs, cost(grid, settings, gigaflops)])


def table(rows: Any, headers: list[str]) -> str:
    right = ["left", *["right"] * (len(headers) - 1)]
    rows = [[f"{cell:,}" if isinstance(cell, int) else cell for cell in row] for row in rows]
    return tabulate(rows, headers, tablefmt="github", colalign=right, disable_numparse=True)


def readable(number: float | None) -> str:
    """Format a number with one decimal, or with two significant digits below 1."""
    if number is None:
        return UNKNOWN
    return f"{number:,.1f}" if number >= 1 or number == 0 else f"{number:.2g}"


def tables_of(grid: Grid) -> Iterator[tuple[str, int, int, int]]:
    """Yield each table's name and numbers of models, cells and shards; tables may share them."""
    for name in grid.file.tables:
        entries = [r for e in grid.file.evaluations_in(name) for r in grid.file.replicates(e)]
        shards = shards_of_cells(entries, grid.file.shard_size)
        yield name, len({e.model for e in entries}), len(shards), sum(shards.values())


def jobs_of(grid: Grid) -> dict[str, int]:
    """Count the jobs of each stage, if nothing has been made yet."""
    shared = [(grid.models[e.model].dataset, grid.metrics[e.metric]) for e in grid.evaluations]
    references = {(data, own["features"]): own["extractor"]["kind"] for data, own in shared}
    extractors = list(references.values())
    models, guides = grid.models.values(), grid.guides.values()
    jobs = {
        "prepare": len(grid.datasets),
        "train_extractor": extractors.count("classifier"),
        "reference": len(references),
        "train": sum(not (model.checkpoint or model.of) for model in models),
        "import": sum(
            bool(trained.checkpoint) and not trained.of for trained in (*models, *guides)
        ),
        "train_guide": sum(not guide.checkpoint for guide in guides),
        "sample": sum(len(grid.ranges_of(cell)) for cell in grid.shards),
        "evaluate": len(grid.cells),
        "likelihood": len(grid.file.likelihood_models()),
        "tabulate": len(grid.file.tables),
        "figure": len(figures_of(grid)),
        "page": 1,
        "certify": 1,
    }
    return {stage: number for stage, number in jobs.items() if number}


def network_of(kind: Kind, trained: ComposedTraining) -> str:
    """Return the network's name in configs/network, from the last override that chooses one."""
    chosen = [o for o in trained.overrides if o.startswith("network=")]
    return chosen[-1].removeprefix("network=") if chosen else DEFAULT_NETWORKS[kind]


def work_of(grid: Grid, adaptive_evaluations: int) -> dict[str, Work]:
    """Return the work of each network, by its name."""
    work: dict[str, Work] = {}
    for kind, all_trained in (("model", grid.models), ("guide", grid.guides)):
        for name, trained in all_trained.items():
            own = work.setdefault(network_of(kind, trained), Work(kind))
            own.trained.append(name)
            if not (trained.checkpoint or trained.of):
                training = trained.settings["training"]
                own.training_images += training["steps"] * training["batch_size"]
    nfe = printed_evaluations(grid)
    for cell, shards in grid.shards.items():
        model, _, name = cell.rpartition("/")
        sampler = grid.samplers[name]
        steps = sampler.settings.get("steps") or nfe.get(cell, adaptive_evaluations)
        evaluations = shards * grid.file.shard_size * steps
        twice = 2 if sampler.guidance == "classifier-free" else 1
        work[network_of("model", grid.models[model])].evaluations += twice * evaluations
        if sampler.guide:
            guide = grid.guides[sampler.guide]
            work[network_of("guide", guide)].evaluations += 2 * evaluations
    return work


def printed_evaluations(grid: Grid) -> dict[str, float]:
    """The network evaluations that the paper prints, by cell."""
    return {e.cell: shown["nfe"] for e, shown in paper_values(grid).items() if "nfe" in shown}


def earlier_throughput(grid: Grid, settings: PlanSettings, work: Work) -> Throughput:
    """Return the throughput of a network's earlier runs, per GPU."""
    kind = ModelManifest if work.kind == "model" else GuideManifest
    trained = train_seconds = sampled = sample_seconds = 0.0
    folder = settings.models if work.kind == "model" else settings.guides
    for name in work.trained:
        if not (folder / name / MANIFEST).exists():
            continue
        manifest = read_manifest(folder / name, kind)
        if manifest.seconds:
            trained += manifest.images_seen
            train_seconds += manifest.seconds * manifest.ranks
    unguided = [e for e in grid.evaluations if grid.samplers[e.sampler].guidance == "none"]
    for evaluation in unguided if work.kind == "model" else []:
        result = evaluation.model in work.trained and read_result(grid, settings.cells, evaluation)
        if result:
            shards = shards_needed(evaluation.samples, grid.file.shard_size)
            sampled += shards * grid.file.shard_size * result.nfe
            sample_seconds += result.sampling_seconds
    return Throughput(
        train=trained / train_seconds if train_seconds else None,
        sample=sampled / sample_seconds if sample_seconds else None,
    )


def cost(grid: Grid, settings: PlanSettings, gigaflops_of: Gigaflops) -> str:
    """Return, as text, the cost of each network's work, the total and the unknown throughputs."""
    works = work_of(grid, settings.adaptive_evaluations)
    gigaflops = {}
    for network, work in works.items():
        trained = grid.models if work.kind == "model" else grid.guides
        gigaflops[network] = gigaflops_of(work.kind, trained[work.trained[0]])
    flops = {
        n: gigaflops[n] * (TRAIN_FACTOR * work.training_images + work.evaluations)
        for n, work in works.items()
    }
    everything = sum(flops.values())
    rows, hours, unknown = [], [], []
    for network, work in works.items():
        known = throughput_of(grid, settings, network, work, gigaflops[network])
        training = _hours(work.training_images, known.train)
        sampling = _hours(work.evaluations, known.sample)
        hours += [training, sampling]
        unknown += [network] if None in (training, sampling) else []
        row = {
            "network": network,
            "models": len(work.trained),
            "GFLOPs": readable(gigaflops[network]),
            "training images (M)": readable(work.training_images / 1e6),
            "samples × NFE (M)": readable(work.evaluations / 1e6),
            "share of FLOPs": f"{flops[network] / everything:.1%}",
            "training (GPU h)": readable(training),
            "sampling (GPU h)": readable(sampling),
        }
        rows.append(row)
    notes = [FORMULA, f"All of it: {everything * 1e9:.3g} FLOPs."]
    if unknown:
        notes.append(
            f"GPU hours are unknown ({UNKNOWN}) where images/s are: give psld plan "
            f"grid_name={grid.name} throughput.NETWORK.train=… and throughput.NETWORK.sample=… for "
            f"{', '.join(unknown)}, or, for a rough guess, sustained_tflops=…"
        )
    else:
        notes.append(f"Sum: {readable(sum(hours))} GPU hours.")
    return "\n\n".join([table([row.values() for row in rows], list(rows[0])), *notes])


def _hours(images: float, per_second: float | None) -> float | None:
    if images == 0:
        return 0.0
    return None if per_second is None else images / per_second / SECONDS_PER_HOUR


def throughput_of(
    grid: Grid, settings: PlanSettings, network: str, work: Work, gigaflops: float
) -> Throughput:
    """Return the user's throughput, or else that of earlier runs, or else from the TFLOP/s."""
    given = settings.throughput.get(network, Throughput())
    earlier = earlier_throughput(grid, settings, work)
    tflops = settings.sustained_tflops
    derived = tflops and 1e3 * tflops / gigaflops
    return Throughput(
        train=given.train or earlier.train or (derived and derived / TRAIN_FACTOR),
        sample=given.sample or earlier.sample or derived,
    )

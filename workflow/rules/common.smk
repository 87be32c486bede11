"""What the rules share: the grids, and the one place where names become paths."""

import re
import shlex
from pathlib import Path

from snakemake.exceptions import WorkflowError

from psld.utils.errors import UserError
from psld.grid.figures import (
    PLOTS,
    evaluations_of_plot,
    plots_of,
    sheets_of,
    traced_models,
    trained_models,
)
from psld.grid.loading import load_grid
from psld.grid.results import paper_values
from psld.sampling.settings import shards_needed

CONFIGS = Path(workflow.basedir) / "configs"


def load_grids():
    """Every grid of configs/grid by its name."""
    try:
        return {
            path.stem: load_grid(path.stem, CONFIGS)
            for path in sorted((CONFIGS / "grid").glob("*.yaml"))
        }
    except UserError as error:
        raise WorkflowError(str(error))


def check_targets(grids):
    """Tables and figures are targets, so their names must differ from each other and from rules."""
    rules = {path.stem for path in (CONFIGS.parent / "workflow" / "rules").glob("*.smk")}
    seen = rules | {"all", "plot", "gallery", "sheet", "figure", *grids}
    for grid, loaded in grids.items():
        for name in (*loaded.file.tables, *loaded.file.figure_targets):
            if name in seen:
                raise WorkflowError(
                    f"configs/grid/{grid}.yaml: {name}: the name is taken by another table, figure, "
                    f"grid or rule; call it {grid}-{name}"
                )
            seen.add(name)


GRIDS = load_grids()
check_targets(GRIDS)
DATASETS = {name: made for grid in GRIDS.values() for name, made in grid.datasets.items()}
METRICS = {name: made for grid in GRIDS.values() for name, made in grid.metrics.items()}
FIGURES = {name for grid in GRIDS.values() for name in grid.file.pictures}


wildcard_constraints:
    grid="|".join(GRIDS),
    dataset="|".join(DATASETS),
    metric="|".join(METRICS),
    figure="|".join(sorted(FIGURES)) or "none",
    plot="|".join(PLOTS),
    sheet=r"(models|samplers)/[^/]+",
    model=r"[^/]+",
    guide=r"[^/]+",
    sampler=r"[^/]+",
    samples=r"\d+",
    shard=r"\d{5}",


# What a training's job asks for. A site sets it in its profile (set-resources: train: nodes: 4);
# empty means not given. Resources are no parameters: changing them retrains nothing.
TRAINING_JOB = {
    "where": "here",  # or slurm
    "nodes": 1,
    "tasks_per_node": "",  # ranks; empty: one a GPU
    "cpus_per_task": 1,  # per rank
    "gpus_per_node": "",
    "gres": "",
    "mem_mb": 16000,  # per node
    "runtime": 1440,  # minutes of one life
    "warning_seconds": 300,  # before the end of a life
    "slurm_partition": "",
    "slurm_account": "",
    "qos": "",
    "constraint": "",
    "exclude": "",
    "slurm_additional_parameters": "",
    "detach": "false",
}
LAUNCH = (
    "psld launch where={resources.where} nodes={resources.nodes} ranks_per_node={resources.tasks_per_node} "
    "cpus_per_rank={resources.cpus_per_task} gpus_per_node={resources.gpus_per_node} "
    "gres='\"{resources.gres}\"' memory_mb={resources.mem_mb} minutes={resources.runtime} "
    "warning_seconds={resources.warning_seconds} partition='\"{resources.slurm_partition}\"' "
    "account='\"{resources.slurm_account}\"' qos='\"{resources.qos}\"' "
    "constraint='\"{resources.constraint}\"' exclude='\"{resources.exclude}\"' "
    "additional='\"{resources.slurm_additional_parameters}\"' detach={resources.detach} --"
)


def model_of(wildcards):
    return GRIDS[wildcards.grid].models[wildcards.model]


def sampler_of(wildcards):
    return GRIDS[wildcards.grid].samplers[wildcards.sampler]


def gallery_of(wildcards):
    """The sampler whose images are shown for each model."""
    return GRIDS[wildcards.grid].samplers[GRIDS[wildcards.grid].file.gallery]


def guide_of(wildcards):
    return GRIDS[wildcards.grid].guides[wildcards.guide]


def dataset_of(wildcards):
    return model_of(wildcards).dataset


def guide_manifest(wildcards):
    """The manifest of the guide that guides a sampler, for those that one guides."""
    name = sampler_of(wildcards).guide
    return [f"guides/{wildcards.grid}/{name}/manifest.json"] if name else []


def inpainted_data(wildcards):
    """The prepared files that an inpainting sampler reads: its dataset, and MNIST for its masks."""
    sampler = sampler_of(wildcards)
    names = [dataset_of(wildcards)] if sampler.guidance == "inpainting" else []
    return names + (["mnist"] if sampler.mask.get("kind") == "digits" else [])


def guidance_inputs(wildcards):
    """What a guided sampler depends on besides the model, by its content: small files, but for a
    mask file of the user's own."""
    mask = sampler_of(wildcards).mask
    own = [mask["path"]] if mask.get("kind") == "file" else []
    digests = [f"data/{name}.digest" for name in inpainted_data(wildcards)]
    return guide_manifest(wildcards) + digests + own


def guidance_images(wildcards):
    return [ancient(f"data/{name}.h5") for name in inpainted_data(wildcards)]


def guidance_overrides(wildcards):
    """Where a command finds what guides the sampler."""
    found = [f"guide={Path(file).parent}" for file in guide_manifest(wildcards)]
    keys = zip(("data", "mnist"), inpainted_data(wildcards))
    return shlex.join(found + [f"{key}=data/{name}.h5" for key, name in keys])


def overrides(composed):
    """The Hydra overrides of a model or sampler, quoted for the shell."""
    return shlex.join(composed.overrides)


def extractor_manifest(dataset, metric):
    """The manifest of a trained extractor, for the metrics that have one."""
    if METRICS[metric]["extractor"]["kind"] == "classifier":
        return [f"features/{dataset}/{metric}/manifest.json"]
    return []


def extractor_folder(dataset, metric):
    return f"features/{dataset}/{metric}" if extractor_manifest(dataset, metric) else "null"


def metrics_file(grid, evaluation):
    return f"results/cells/{grid}/{evaluation.cell}/{evaluation.file_name}"


def results_of_cell(grid, cell):
    return [metrics_file(grid, e) for e in GRIDS[grid].evaluations_of(cell)]


def evaluations_of_table(grid, table):
    rows = GRIDS[grid].table_evaluations(table)
    return sorted({metrics_file(grid, e) for row in rows for e in row if e is not None})


def results_of_table(grid, table):
    return [f"results/tables/{grid}/{table}.{ending}" for ending in ("md", "csv", "tex", "html")]


def results_of_grid(grid):
    tables = [file for table in GRIDS[grid].file.tables for file in results_of_table(grid, table)]
    cells = [file for cell in GRIDS[grid].cells for file in results_of_cell(grid, cell)]
    return tables + pictures_of_grid(grid) + cells


def pictures_of_grid(grid):
    traces = [f"phase-space/{model}" for model in traced_models(GRIDS[grid])]
    drawn = [
        f"{name}.{ending}" for name in plots_of(GRIDS[grid]) + traces for ending in ("png", "svg")
    ]
    galleries = [f"samples/{model}.png" for model in GRIDS[grid].models]
    sheets = [f"{sheet}.png" for sheet in sheets_of(GRIDS[grid])]
    figures = [f"{figure}.png" for figure in GRIDS[grid].file.pictures]
    return [f"results/figures/{grid}/{file}" for file in drawn + galleries + sheets + figures]


def inputs_of_plot(wildcards):
    grid = GRIDS[wildcards.grid]
    if wildcards.plot == "training":
        return [f"models/{grid.name}/{model}/history.json" for model in trained_models(grid)]
    return [metrics_file(grid.name, e) for e in evaluations_of_plot(grid, wildcards.plot)]


def papers_of_plot(wildcards):
    """The paper's numbers that a plot shows."""
    grid = GRIDS[wildcards.grid]
    papers = paper_values(grid)
    return [papers.get(evaluation) for evaluation in evaluations_of_plot(grid, wildcards.plot)]


def shards_of_sheet(wildcards):
    cells = sheets_of(GRIDS[wildcards.grid])[wildcards.sheet].values()
    return [f"samples/{wildcards.grid}/{cell}/00000.h5" for cell in cells]


def shards_of(wildcards):
    grid = GRIDS[wildcards.grid]
    count = shards_needed(int(wildcards.samples), grid.file.shard_size)
    folder = f"samples/{wildcards.grid}/{wildcards.model}/{wildcards.sampler}"
    return [f"{folder}/{shard:05d}.h5" for shard in range(count)]


def cell_of_figure(wildcards):
    return GRIDS[wildcards.grid].file.pictures[wildcards.figure]


def originals_of_figure(wildcards):
    """The prepared dataset whose images a figure shows before and after inpainting."""
    grid, (model, sampler) = GRIDS[wildcards.grid], cell_of_figure(wildcards).split("/")
    inpaints = grid.samplers[sampler].guidance == "inpainting"
    return [f"data/{grid.models[model].dataset}.h5"] if inpaints else []


def originals_overrides(wildcards):
    grid, (_, sampler) = GRIDS[wildcards.grid], cell_of_figure(wildcards).split("/")
    guidance = grid.samplers[sampler].settings["guidance"]
    return [f"data={data} split={guidance['split']}" for data in originals_of_figure(wildcards)]


def grid_pattern(all_trained, imported):
    """A pattern of {grid} that looks ahead at the name after it: of what is imported, or is not."""
    names = [
        re.escape(f"{grid}/{name}/")
        for grid in GRIDS
        for name, trained in getattr(GRIDS[grid], all_trained).items()
        if trained.checkpoint
    ]
    nothing = "(?!)"
    return f"{'(?=' if imported else '(?!'}{'|'.join(names) or nothing})[^/]+"

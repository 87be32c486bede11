"""The model card of a model: its manifest and its results, as the README.md of a repository."""

from collections.abc import Iterator
from pathlib import Path

import yaml

from psld.grid import paths
from psld.metrics.results import CellResult, CellResults
from psld.report.formats import markdown
from psld.report.table import TableText
from psld.training.manifest import ModelManifest

INTERVAL = (
    "The 95 % interval covers other samples of the same weights; not training again, nor other "
    "images of the reference."
)


def model_card(manifest: ModelManifest, repository: str, license: str) -> str:
    """Return the card, in Markdown with the Hub's header.

    The results are those of the working directory that were measured with exactly these weights.

    Args:
        repository: USER/NAME on the Hub.
        license: of the weights, in the words of the Hub.
    """
    header = {
        "license": license,
        "library_name": "psld",
        "pipeline_tag": "unconditional-image-generation",
        "tags": ["diffusion", "psld"],
    }
    facts = [[key, value] for key, value in _facts(manifest) if value]
    parts = [
        f"---\n{yaml.safe_dump(header, sort_keys=False)}---",
        f"# {manifest.name}",
        "A diffusion model of images, for the Python package psld (Phase Space Langevin Diffusion, "
        "K. Pandey and S. Mandt, ICCV 2023).",
        markdown(TableText("Model", ["", ""], [*facts, ["license of the weights", license]], 2)),
        f"### How to load\n\n```python\nimport psld  # pip install 'psld[hub]'\n\n"
        f'model = psld.load("hf://{repository}")\nimages = model.sample(16, seed=0)\n```\n\n'
        f"This loads the newest commit. `hf://{repository}@COMMIT`, with the hash of a commit, "
        "always loads the same weights. Digests are checked when a file is read.",
        _distances(manifest.weights_sha256),
        f"### Settings that decide the weights\n\n```yaml\n"
        f"{yaml.safe_dump(manifest.settings.identity(), sort_keys=False)}```",
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _facts(manifest: ModelManifest) -> Iterator[tuple[str, str | None]]:
    """Yield what a reader asks first, as far as it is known."""
    settings, dataset, imported = manifest.settings, manifest.settings.dataset, manifest.imported
    shape = f"{dataset.channels}×{dataset.image_size}×{dataset.image_size}"
    training = [
        manifest.step is not None and f"{manifest.step:,} steps",
        manifest.images_seen is not None and f"{manifest.images_seen:,} images",
        manifest.seconds is not None and f"{manifest.seconds / 3600:.3g} h",
        manifest.device and f"{manifest.ranks} × {manifest.device}",
    ]
    yield "dataset", f"{dataset.name}: {shape}, {dataset.num_classes} classes"
    yield "digest of the dataset", manifest.dataset_digest
    process = "every one" if settings.serves_every_process else settings.process.kind
    yield "process", process
    condition = "class-conditional" if settings.num_classes else "unconditional"
    yield "network", f"{manifest.parameters:,} parameters, {condition}"
    yield "training", ", ".join(filter(None, training))
    source = imported and f"{imported.file} ({imported.weights}), SHA-256 {imported.sha256}"
    yield "imported from a checkpoint of the official code", source
    yield "SHA-256 of the weights", manifest.weights_sha256
    versions = (f"{name} {manifest.versions.get(name)}" for name in ("psld", "torch"))
    yield "software", ", ".join([*versions, f"revision {manifest.git_revision or 'unknown'}"])


def _distances(weights_sha256: str) -> str:
    """Return a table of the results that were measured with these weights; empty without any."""
    lines = [
        [
            cell,
            result.metric["name"],
            f"{result.samples:,}",
            f"{result.nfe:g}",
            f"{result.value:.4g}",
            "{1:.4g} to {2:.4g}".format(*result.estimate.interval),
        ]
        for cell, result in _results(weights_sha256)
    ]
    columns = ["cell", "metric", "images", "evaluations per image", "value", "95 % interval"]
    return markdown(TableText("Distances", columns, lines, notes=[INTERVAL])) if lines else ""


def _results(weights_sha256: str) -> Iterator[tuple[str, CellResult]]:
    """Yield cells, GRID/MODEL/SAMPLER, and their results, without those of a guide as well."""
    for path in sorted(Path().glob(paths.cell_result("*", "*/*"))):
        if weights_sha256 in path.read_text():  # Reading all results of the paper takes long.
            for result in CellResults.read(path).results:
                if result.model.weights_sha256 == weights_sha256 and result.guide is None:
                    yield "/".join(path.with_suffix("").parts[-3:]), result

"""Write the results page of a grid, in HTML, and the model card, in Markdown."""

import base64
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml
from PIL import Image

from psld.evaluation.results import CellResults, ModelResult
from psld.grid.cells import Grid
from psld.grid.figures import FIRST, GridFigure, all_figures
from psld.grid.rows import read_claims, read_tables
from psld.models.manifest import ModelManifest
from psld.report.table import (
    TEMPLATES,
    TableText,
    answer,
    answers,
    claims_text,
    limit_text,
    markdown,
    scales,
    summary,
    table_text,
)

MOST_PIXELS = 1600
UNFOLDED = 5
"""The number of figures that are shown without a click."""
FEW_COLORS = 1024
"""A picture with more colors is treated as a photograph and compressed lossily."""


class Picture(NamedTuple):
    number: int
    figure: GridFigure
    caption: str
    source: str
    width: int
    height: int


def results_page(grid: Grid) -> str:
    """Return the page of a grid's results.

    The page begins with the first finding and the first figure. The page also lists the figures
    that have not been drawn yet.
    """
    tables = read_tables(grid)
    entries = [entry for rows in tables.values() for row in rows for entry in row]
    results = [result for entry in entries for result in entry.results]
    texts = {name: table_text(grid.file.tables[name], rows) for name, rows in tables.items()}
    files = {name: Path(f"{grid.figure(name)}.png") for name in all_figures(grid)}
    drawn = {name: file for name, file in files.items() if file.exists()}
    pictures = _pictures(grid, drawn)
    headlines = (answer(grid.file.tables[name], rows).headline for name, rows in tables.items())
    headline = next(filter(None, headlines), "")
    return TEMPLATES.get_template("page.html").render(
        grid=grid,
        total=len(entries),
        compared=sum(e.paper is not None and e.status != "literature" for e in entries),
        summary=summary(grid, tables),
        claims=claims_text(read_claims(grid)),
        headline=headline,
        answers={text: name for text, name in answers(grid, tables).items() if text != headline},
        facts=_facts(grid),
        scales=list(scales(entries)),
        tables=texts,
        limits={name: limit_text(grid.file.tables[name], rows) for name, rows in tables.items()},
        lead=pictures[0] if pictures else None,
        pictures=_by_category(pictures[1:UNFOLDED]),
        folded=_by_category(pictures[UNFOLDED:]),
        missing=[name for name in files if name not in drawn],
        origins=list(_origins(results)) if results else [],
    )


def _facts(grid: Grid) -> dict[str, list[str]]:
    budgets: dict[str, dict[str, None]] = {}
    for sampler in grid.samplers.values():
        budgets.setdefault(sampler.family, {})[sampler.budget] = None
    samples = sorted({shown.samples for shown in grid.file.cells_shown})
    label = grid.file.label
    facts = {
        "Datasets": list(grid.datasets),
        "Models": [n if label(n) == n else f"{label(n)} ({n})" for n in grid.file.models],
        "Samplers": [f"{label(f)} ({', '.join(b)})" for f, b in budgets.items()],
        "Metrics": list(grid.metrics),
        "Samples of each cell": [f"{number:,}" for number in samples],
        "Seeds": [f"{len(seeds)} of {what}" for what, seeds in grid.file.seeds if len(seeds) > 1],
    }
    return {name: items for name, items in facts.items() if items}


def _pictures(grid: Grid, drawn: dict[str, Path]) -> list[Picture]:
    """Return the drawn figures. A repeated caption becomes a reference to an earlier figure."""
    pictures = []
    captions: dict[str, int] = {}
    for number, (name, path) in enumerate(drawn.items(), 1):
        figure = all_figures(grid)[name]
        first = captions.setdefault(figure.caption, number)
        caption = figure.caption if first == number else f"As in Figure {first}."
        pictures.append(Picture(number, figure, caption, *_embedded(path)))
    return pictures


def _by_category(pictures: Iterable[Picture]) -> dict[str, list[Picture]]:
    """Return the pictures by category. The comparisons of the grid have the category ""."""
    found: dict[str, list[Picture]] = {}
    for picture in pictures:
        category = picture.figure.category
        found.setdefault("" if category == FIRST else category[0], []).append(picture)
    return found


def _embedded(path: Path) -> tuple[str, int, int]:
    """Return a PNG as a WebP data URI, and the width (at most MOST_PIXELS) and height of the WebP.

    Drawings and gray pictures are compressed losslessly.
    """
    image = Image.open(path).convert("RGB")
    few = image.getcolors(FEW_COLORS) is not None
    image.thumbnail((MOST_PIXELS, MOST_PIXELS * 8))
    stream = io.BytesIO()
    image.save(stream, "WEBP", lossless=few, quality=85)
    return f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode()}", *image.size


def _origins(results: Sequence[ModelResult]) -> Iterator[TableText]:
    lines = {}
    weights = (each for result in results for each in (result.model, result.guide) if each)
    for each in weights:
        steps = "" if each.step is None else str(each.step)
        steps += f" from {each.init['model']}" if each.init else ""
        facts = [each.settings["dataset"]["name"], steps, each.weights_sha256]
        settings = dict(each.settings)
        if settings["training"].get("objective") == "denoiser":
            settings.pop(
                "process", None
            )  # The weights serve every process, not only the process of this cell.
        lines[each.name] = [each.name, *facts, json.dumps(settings)]
    columns = ["name", "dataset", "steps", "SHA-256", "settings"]
    yield TableText("Weights", columns, list(lines.values()))
    columns = ["evaluated with", "revision", "precision", "sampled on", "results"]
    software = Counter(map(_software, results)).items()
    yield TableText("Software and devices", columns, [[*words, str(n)] for words, n in software])


def _software(result: ModelResult) -> tuple[str, ...]:
    versions = ", ".join(f"{name} {v}" for name, v in result.versions.items() if v)
    precision = ", ".join(f"{name}: {value}" for name, value in result.precision.items())
    return versions, result.git_revision or "", precision, result.sampling_device


# -- the card of a model ---------------------------------------------------------------------------


OF_THE_START = (
    "means and covariances of training images. They are not private: an image can be "
    "reconstructed from two starts whose training images differ only in this image."
)


def model_card(
    manifest: ModelManifest, repository: str, license: str, start: str | None = None
) -> str:
    """Return the README.md of a model's repository on the Hub.

    The card lists the results in the working directory that were measured with these weights.

    Args:
        start: the file of the initial distribution, if it is uploaded with the model.
    """
    header = {"license": license, "library_name": "psld", "tags": ["diffusion", "psld"]}
    header["pipeline_tag"] = "unconditional-image-generation"
    facts = [[key, value] for key, value in _card_facts(manifest) if value]
    parts = [
        f"---\n{yaml.safe_dump(header, sort_keys=False)}---\n\n# {manifest.name}",
        "A diffusion model of images, for a reference implementation of Phase Space Langevin "
        "Diffusion (K. Pandey and S. Mandt, ICCV 2023).",
        markdown(TableText("Model", ["", ""], [*facts, ["license of the weights", license]], 2)),
        # Install from a checkout: on a package index, somebody else may own the name psld.
        f"### How to load\n\n```python\nimport psld  # in its checkout: pip install '.[hub]'\n\n"
        f'model = psld.load("hf://{repository}")\nimages = model.sample(16, seed=0)\n```',
        f"This loads the newest commit. `hf://{repository}@COMMIT`, with the hash of a commit, "
        "always loads the same weights. Digests are checked when a file is read.",
        *([f"`starts/` has {OF_THE_START}"] if start else []),
        _distances(manifest.weights_sha256),
        "### Settings that decide the weights\n\n```yaml\n"
        f"{yaml.safe_dump(manifest.settings.identity(), sort_keys=False)}```\n",
    ]
    return "\n\n".join(parts)


def _card_facts(manifest: ModelManifest) -> Iterator[tuple[str, str | None]]:
    settings, data, imported = manifest.settings, manifest.settings.dataset, manifest.imported
    training = [
        manifest.step is not None and f"{manifest.step:,} steps",
        manifest.images_seen is not None and f"{manifest.images_seen:,} images",
        manifest.seconds is not None and f"{manifest.seconds / 3600:.3g} h",
        manifest.device and f"{manifest.ranks} × {manifest.device}",
    ]
    shape = "×".join(map(str, data.shape))
    yield "dataset", f"{data.name}: {shape}, {data.num_classes} classes"
    yield "digest of the dataset", manifest.dataset_digest
    yield "process", "every one" if settings.serves_every_process else settings.process.kind
    condition = "class-conditional" if settings.num_classes else "unconditional"
    yield "network", f"{manifest.parameters:,} parameters, {condition}"
    yield "training", ", ".join(filter(None, training))
    if init := manifest.init:
        yield "started from", f"{init['model']}, SHA-256 of the weights {init['weights_sha256']}"
    source = imported and f"{imported.file} ({imported.weights}), SHA-256 {imported.sha256}"
    yield "imported from a checkpoint of the official code", source
    yield "SHA-256 of the weights", manifest.weights_sha256
    yield "software", ", ".join(f"{k} {v}" for k, v in manifest.versions.items() if v)


def _distances(weights_sha256: str) -> str:
    """Return a table of the results that were measured with these weights and without a guide."""
    lines = []
    for path in sorted(Path("results/cells").glob("*/*/*.json")):
        # Search the text before parsing it, because parsing all results of the paper takes long.
        if weights_sha256 not in path.read_text():
            continue
        cell = "/".join(path.with_suffix("").parts[-3:])
        for r in CellResults.read(path).results:
            of_these = r.model and r.model.weights_sha256 == weights_sha256 and r.guide is None
            if of_these and not r.void:
                interval = "{1:.4g} to {2:.4g}".format(*r.estimate.interval)
                cost = [f"{r.samples:,}", f"{r.nfe:g}"]
                lines.append([cell, r.metric["name"], *cost, f"{r.value:.4g}", interval])
    columns = ["cell", "metric", "images", "evaluations per image", "value", "95 % interval"]
    covers = "The interval covers other samples of the same weights, but not training again."
    text = TableText("Distances", columns, lines, notes=[covers])
    return markdown(text).strip() if lines else "No distances were measured."

"""The page of a grid's results: what was asked, what came out, each table next to its figures."""

import base64
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from PIL import Image

from psld.config.settings import Settings
from psld.grid import paths
from psld.grid.entries import STATUSES, Status, TableEntry, read_table
from psld.grid.figures import GridFigure, all_figures, plot_lines
from psld.grid.records import Grid
from psld.metrics.results import CellResult, Weights
from psld.report.formats import TEMPLATES
from psld.report.table import TableText, summary, table_text
from psld.utils.errors import UserError

MEANINGS: dict[Status, str] = {
    "reproduced": "with its whole interval within the band around the paper's number",
    "off": "with its whole interval outside the band",
    "undecided": "the interval overlaps the band in part",
    "measured": "the paper has no number, or the table no band",
    "not run": "no result yet",
    "literature": "printed in other papers, not run here",
}

VECTORS = ("plot", "phase-space")
"""The kinds of figures that are embedded as SVG; the others are images of pixels."""
MOST_PIXELS = 1600
MOST_CELLS = 2 / 3
"""A plot stands next to the first table of which it joins at least this share of the cells."""
FEW_COLORS = 1024
"""A picture with at most as many colors is a drawing or gray; one with more has photographs."""


@dataclass(frozen=True)
class Picture:
    """A figure that has been drawn, as the page shows it."""

    number: int
    figure: GridFigure
    caption: str
    source: str
    """Its content as a data URI."""
    width: int
    height: int

    @property
    def heading(self) -> str:
        """Its title, which starts with a capital letter if it is not a name."""
        title = self.figure.title
        return title[0].upper() + title[1:] if self.figure.kind == "plot" else title

    @property
    def alt(self) -> str:
        what = "Plot" if self.figure.kind == "plot" else "Images"
        return f"{what}: {self.figure.title}. The caption describes it."


@dataclass
class Section:
    """A section of the page: a table, or a kind of figures."""

    name: str
    title: str
    table: TableText | None = None
    pictures: list[Picture] = field(default_factory=list)
    elsewhere: list[Picture] = field(default_factory=list)
    """Pictures of another section that show numbers of this one."""


def results_page(grid: Grid) -> str:
    """Return the page, with all cells and figures that exist."""
    tables = {name: read_table(grid, name) for name in grid.file.tables}
    entries = [entry for rows in tables.values() for row in rows for entry in row]
    counts = Counter(entry.status for entry in entries)
    folder = Path(paths.figure(grid.name, ""))
    figures = all_figures(grid).items()
    drawn = {name: figure for name, figure in figures if (folder / f"{name}.png").exists()}
    return TEMPLATES.get_template("page.html").render(
        grid=grid,
        counts=[(status, counts[status], MEANINGS[status]) for status in STATUSES],
        total=len(entries),
        compared=sum(e.paper is not None and e.status != "literature" for e in entries),
        summary=summary(grid, tables),
        facts=_facts(grid),
        sections=_sections(grid, tables, drawn, folder),
        missing=[name for name, _ in figures if name not in drawn],
        origins=[text for text in _origins(grid, entries) if text.lines],
    )


def _facts(grid: Grid) -> dict[str, list[str]]:
    """Return the parts of the grid: datasets, models, samplers with their budgets, metrics."""
    budgets: dict[str, set[str]] = {}
    for sampler in grid.samplers.values():
        budgets.setdefault(sampler.family, set()).add(sampler.budget)
    samples = sorted({number.samples for number in grid.file.numbers})
    seeds = {"training": grid.file.seeds.training, "sampling": grid.file.seeds.sampling}
    facts = {
        "Datasets": list(grid.datasets),
        "Models": list(grid.file.models),
        "Samplers": [f"{f} ({', '.join(sorted(b, key=float))})" for f, b in budgets.items()],
        "Metrics": list(grid.metrics),
        "Samples of each cell": [f"{number:,}" for number in samples],
        "Seeds": [f"{len(values)} of {what}" for what, values in seeds.items() if len(values) > 1],
    }
    return {name: items for name, items in facts.items() if items}


# -- sections -------------------------------------------------------------------------------------


def _sections(
    grid: Grid,
    tables: dict[str, list[list[TableEntry]]],
    drawn: dict[str, GridFigure],
    folder: Path,
) -> list[Section]:
    """Return one section for each table, then one for each category of the other figures."""
    pictures: dict[str, Picture] = {}
    sections = []
    for name, rows in tables.items():
        table = grid.file.tables[name]
        section = Section(f"table-{name}", table.title, table_text(table, rows))
        for figure in drawn.values():
            share = _plotted(grid, name, figure.name)
            if figure.name in pictures:
                section.elsewhere += [pictures[figure.name]] if share else []
            elif share >= MOST_CELLS or _pictured(grid, name, figure):
                section.pictures.append(_add_picture(pictures, figure, folder))
        sections.append(section)
    others = [figure for name, figure in drawn.items() if name not in pictures]
    for category in reversed(dict.fromkeys(figure.category[0] for figure in others)):
        alike = [figure for figure in others if figure.category[0] == category]
        alike.sort(key=lambda figure: figure.kind != "comparison")
        shown = [_add_picture(pictures, figure, folder) for figure in alike]
        title = shown[0].heading if len(shown) == 1 else category
        sections.append(Section(f"figures-{len(sections)}", title, pictures=shown))
    return sections


def _add_picture(pictures: dict[str, Picture], figure: GridFigure, folder: Path) -> Picture:
    """Add a figure to the pictures of the page so far; equal captions are printed once."""
    numbers = {picture.figure.caption: picture.number for picture in reversed(pictures.values())}
    earlier = numbers.get(figure.caption)
    caption = f"As in Figure {earlier}." if earlier else figure.caption
    picture = Picture(len(pictures) + 1, figure, caption, *_embedded(figure, folder))
    pictures[figure.name] = picture
    return picture


def _plotted(grid: Grid, table: str, figure: str) -> float:
    """Return the share of a table's cells that a plot joins with another cell of the table."""
    shown = set(grid.file.numbers_in(table))
    joined = [shown.intersection(line) for line in plot_lines(grid, figure)]
    return sum(len(numbers) for numbers in joined if len(numbers) > 1) / max(1, len(shown))


def _pictured(grid: Grid, table: str, figure: GridFigure) -> bool:
    """Check that a figure shows samples for an entry of a table."""
    shown = grid.file.numbers_in(table)
    if figure.kind == "nearest":
        metrics = [grid.metrics[n.metric] for n in shown if n.cell == figure.cell.name]
        return any(metric.measure.kind == "memorization" for metric in metrics)
    return grid.file.figures.get(figure.name) in {number.cell for number in shown}


def _embedded(figure: GridFigure, folder: Path) -> tuple[str, int, int]:
    """Return a figure's data URI, and its width and height in pixels of the page."""
    if figure.kind in VECTORS:
        path = folder / f"{figure.name}.svg"
        content = path.read_bytes()
        box = re.search(rb'<svg[^>]* viewBox="0 0 ([\d.]+) ([\d.]+)"', content)
        if box is None or not content.rstrip().endswith(b"</svg>"):
            raise UserError(f"{path}: not a whole picture; delete it and draw it again")
        size = [round(float(length) * 96 / 72) for length in box.groups()]
        kind = "svg+xml"
    else:
        content, size = _small(folder / f"{figure.name}.png")
        kind = "webp"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}", *size


def _small(path: Path) -> tuple[bytes, tuple[int, int]]:
    """Return a PNG as WebP of at most MOST_PIXELS in width, lossless unless it has photographs."""
    content = io.BytesIO(path.read_bytes())
    try:
        Image.open(content).verify()  # the checksums, which are not looked at otherwise
        image = Image.open(content).convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:  # as Pillow reports damage
        raise UserError(
            f"{path}: not a whole picture ({error}); delete it and draw it again"
        ) from None
    few = image.getcolors(FEW_COLORS) is not None
    image.thumbnail((MOST_PIXELS, MOST_PIXELS * 8))
    stream = io.BytesIO()
    image.save(stream, "WEBP", lossless=few, quality=85)
    return stream.getvalue(), image.size


# -- provenance -----------------------------------------------------------------------------------


def _origins(grid: Grid, entries: Iterable[TableEntry]) -> Iterator[TableText]:
    """Yield tables of the results' models, guides, samplers, metrics and software."""
    results = list(chain.from_iterable(entry.results for entry in entries))
    columns = ["name", "dataset", "steps", "weights (SHA-256)", "settings"]
    models = {r.model.name: r.model for r in results}
    yield TableText("Models", columns, list(map(_weights_line, models.values())))
    guides = {r.guide.name: r.guide for r in results if r.guide}
    yield TableText("Guides", columns, list(map(_weights_line, guides.values())))
    columns = ["name", "settings"]
    samplers = [[name, _as_json(sampler.settings)] for name, sampler in grid.samplers.items()]
    yield TableText("Samplers", columns, samplers)
    metrics = [[name, _as_json(metric)] for name, metric in grid.metrics.items()]
    yield TableText("Metrics", columns, metrics)
    columns = ["evaluated with", "revision", "precision", "sampled on", "results"]
    software = Counter(map(_software, results)).items()
    yield TableText("Software and devices", columns, [[*words, str(n)] for words, n in software])


def _weights_line(weights: Weights) -> list[str]:
    settings = {key: value for key, value in weights.settings.items() if key != "dataset"}
    dataset, step = weights.settings["dataset"]["name"], weights.step
    steps = "" if step is None else str(step)
    return [weights.name, dataset, steps, weights.weights_sha256, json.dumps(settings)]


def _as_json(settings: Settings) -> str:
    return json.dumps(settings.model_dump(mode="json", exclude_none=True))


def _software(result: CellResult) -> tuple[str, ...]:
    """Return versions, revision and precision of the evaluation, and the device of sampling."""
    versions = ", ".join(
        f"{name} {version}" for name, version in result.versions.items() if version
    )
    precision = ", ".join(f"{name}: {value}" for name, value in result.precision.items())
    return versions, result.git_revision or "", precision, result.sampling_device

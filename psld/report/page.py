"""The page of a grid's results: what was asked, what came out, each table next to its figures."""

import base64
import io
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from psld.grid import paths
from psld.grid.captions import caption_of
from psld.grid.entries import STATUSES, Status, TableEntry, read_table
from psld.grid.figures import GridFigure, all_figures, plot_lines
from psld.grid.records import Grid
from psld.report.html import TEMPLATES
from psld.report.origins import origins_of
from psld.report.table import Text, summary, text_of
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
    table: Text | None = None
    pictures: list[Picture] = field(default_factory=list)
    elsewhere: list[Picture] = field(default_factory=list)
    """Pictures of another section that show numbers of this one."""


def results_page(grid: Grid) -> str:
    """Return the page, with all cells and figures that exist."""
    tables = {name: read_table(grid, name) for name in grid.file.tables}
    entries = [entry for rows in tables.values() for row in rows for entry in row]
    counts = Counter(entry.status for entry in entries)
    everything, folder = all_figures(grid), Path(paths.figure(grid.name, ""))
    drawn = {n: f for n, f in everything.items() if (folder / f"{n}.png").exists()}
    sections = _sections(grid, tables, drawn, folder)
    return TEMPLATES.get_template("page.html").render(
        grid=grid,
        counts=[(status, counts[status], MEANINGS[status]) for status in STATUSES],
        total=len(entries),
        compared=sum(e.paper is not None and e.status != "literature" for e in entries),
        summary=summary(grid, tables),
        facts=_facts(grid),
        sections=sections,
        missing=[name for name in everything if name not in drawn],
        origins=origins_of(grid, entries),
    )


def _sections(
    grid: Grid,
    tables: dict[str, list[list[TableEntry]]],
    drawn: dict[str, GridFigure],
    folder: Path,
) -> list[Section]:
    """Return one section for each table, then one for each category of the other figures."""
    placed: dict[str, Picture] = {}

    captions: dict[str, int] = {}

    def place(figure: GridFigure) -> Picture:
        number, caption = len(placed) + 1, caption_of(figure)
        if captions.setdefault(caption, number) != number:
            caption = f"As in Figure {captions[caption]}."
        picture = Picture(number, figure, caption, *_embedded(figure, folder))
        return placed.setdefault(figure.name, picture)

    sections = []
    for name, rows in tables.items():
        section = Section(f"table-{name}", grid.file.tables[name].title)
        section.table = text_of(grid.file.tables[name], rows)
        for figure in drawn.values():
            share = _plotted(grid, name, figure.name)
            if figure.name in placed:
                section.elsewhere += [placed[figure.name]] if share else []
            elif share >= MOST_CELLS or _pictured(grid, name, figure):
                section.pictures.append(place(figure))
        sections.append(section)
    others = [figure for name, figure in drawn.items() if name not in placed]
    for category in reversed(dict.fromkeys(figure.category[0] for figure in others)):
        own = [figure for figure in others if figure.category[0] == category]
        own.sort(key=lambda figure: figure.kind != "comparison")
        pictures = [place(figure) for figure in own]
        title = pictures[0].heading if len(pictures) == 1 else category
        sections.append(Section(f"figures-{len(sections)}", title, pictures=pictures))
    return sections


def _plotted(grid: Grid, table: str, figure: str) -> float:
    """Return the share of a table's cells that a plot joins with another cell of the table."""
    shown = set(grid.file.numbers_in(table))
    joined = [shown.intersection(line) for line in plot_lines(grid, figure)]
    return sum(len(numbers) for numbers in joined if len(numbers) > 1) / max(1, len(shown))


def _pictured(grid: Grid, table: str, figure: GridFigure) -> bool:
    """Check that a figure shows samples for an entry of a table."""
    shown = grid.file.numbers_in(table)
    if figure.kind == "nearest":
        return "memorization" in {
            grid.metrics[n.metric].measure.kind for n in shown if n.cell == figure.cell.name
        }
    return grid.file.pictures.get(figure.name) in {number.cell for number in shown}


def _embedded(figure: GridFigure, folder: Path) -> tuple[str, int, int]:
    """Return a figure's data URI, and its width and height in pixels of the page."""
    if figure.kind in VECTORS:
        path = folder / f"{figure.name}.svg"
        content = path.read_bytes()
        found = re.search(rb'<svg[^>]* viewBox="0 0 ([\d.]+) ([\d.]+)"', content)
        if found is None or not content.rstrip().endswith(b"</svg>"):
            raise UserError(f"{path}: not a whole picture; delete it and draw it again")
        size = [round(float(length) * 96 / 72) for length in found.groups()]
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


def _facts(grid: Grid) -> dict[str, list[str]]:
    """Return the parts of the grid: datasets, models, samplers with their budgets, metrics."""
    budgets: dict[str, set[str]] = {}
    for sampler in grid.samplers.values():
        budgets.setdefault(sampler.family, set()).add(sampler.budget)
    ordered = {family: ", ".join(sorted(values, key=float)) for family, values in budgets.items()}
    samples = sorted({number.samples for number in grid.file.numbers})
    seeds = {"training": grid.file.seeds.training, "sampling": grid.file.seeds.sampling}
    facts = {
        "Datasets": list(grid.datasets),
        "Models": list(grid.file.models),
        "Samplers": [f"{family} ({values})" for family, values in ordered.items()],
        "Metrics": list(grid.metrics),
        "Samples of each cell": [f"{number:,}" for number in samples],
        "Seeds": [f"{len(own)} of {what}" for what, own in seeds.items() if len(own) > 1],
    }
    return {name: items for name, items in facts.items() if items}

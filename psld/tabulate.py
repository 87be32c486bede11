"""Tabulate: one table of a grid as Markdown, CSV, LaTeX and HTML.

python -m psld.tabulate grid_name=demo table=demo-steps
"""

from html import escape
from pathlib import Path

import pandas as pd
from pydantic import Field

from psld.cli import CONFIGS, entry_point
from psld.errors import UserError
from psld.files import write_text
from psld.grid import Grid, load_grid
from psld.grid_file import Table
from psld.results import TableEntry, read_table
from psld.settings import Settings

MISSING = "–"
LITERATURE = "†"
MARKS = {"reproduced": " ✓", "off": " ✗"}


class TabulateSettings(Settings):
    """Settings of `python -m psld.tabulate`."""

    grid_name: str
    """Name of the grid, configs/grid/NAME.yaml."""
    table: str
    """Name of one of its tables."""
    cells: Path
    """Folder of the grid's metrics files."""
    output: str = Field(pattern=r"[^/]$")
    """Path of the table without its ending."""


@entry_point("tabulate", TabulateSettings)
def main(settings: TabulateSettings) -> None:
    grid = load_grid(settings.grid_name, CONFIGS)
    if settings.table not in grid.file.tables:
        raise UserError(
            f"table: {settings.table!r} is not in grid {settings.grid_name}; "
            f"there are: {', '.join(grid.file.tables)}"
        )
    table = grid.file.tables[settings.table]
    rows = read_table(grid, settings.table, settings.cells)
    frame, notes = as_printed(table, rows), footnotes(table, rows)
    output = settings.output
    write_text(f"{output}.csv", as_records(grid, table, rows).to_csv(index=False))
    write_text(f"{output}.md", markdown(table, frame, notes))
    write_text(f"{output}.tex", latex(table, frame, notes))
    write_text(f"{output}.html", html(table, frame, notes))


def as_printed(table: Table, rows: list[list[TableEntry]]) -> pd.DataFrame:
    """The table as people read it: one line a row, our value and, in brackets, the paper's."""
    lines = []
    for entries in rows:
        line = dict(zip(table.headings, entries[0].row.label, strict=True))
        line.update((entry.column, _text(entry)) for entry in entries)
        lines.append(line)
    return pd.DataFrame(lines)


def _text(entry: TableEntry) -> str:
    digits = 0 if entry.show == "nfe" else 2
    paper = MISSING if entry.paper is None else f"{entry.paper:.{digits}f}"
    if entry.status == "literature":
        return paper if entry.paper is None else f"{paper}{LITERATURE}"
    ours = MISSING if entry.value is None else f"{entry.value:.{digits}f}"
    if entry.paper is None:
        return ours
    if entry.difference is None:
        return f"{ours} ({paper})"
    return f"{ours} ({paper}, {entry.difference:+.{digits}f}{MARKS.get(entry.status, '')})"


def as_records(grid: Grid, table: Table, rows: list[list[TableEntry]]) -> pd.DataFrame:
    """The table as programs read it: one line an entry, with everything that is known of it."""
    records = []
    for entry in (entry for entries in rows for entry in entries):
        result = entry.result or {}
        records.append(
            {
                **dict(zip(table.headings, entry.row.label, strict=True)),
                "column": entry.column,
                "cell": entry.evaluation and f"{grid.name}/{entry.evaluation.cell}",
                "metric": entry.evaluation and entry.evaluation.metric,
                "shows": entry.show,
                "ours": entry.value,
                "paper": entry.paper,
                "source": entry.row.source,
                "difference": entry.difference,
                "band": entry.width,
                "status": entry.status,
                "samples": entry.evaluation and entry.evaluation.samples,
                "nfe": result.get("nfe"),
                "sampling_seconds": result.get("sampling_seconds"),
                "sampling_device": result.get("sampling_device"),
            }
        )
    # Whole numbers even where some are missing.
    return pd.DataFrame(records).astype({"samples": "Int64"})


def footnotes(table: Table, rows: list[list[TableEntry]]) -> list[str]:
    """The table's own footnotes, the scale of each metric in it, and what is missing."""
    entries = [entry for line in rows for entry in line]
    notes = list(table.footnotes)
    for result in {e.result["metric"]: e.result for e in entries if e.result}.values():
        scale = f"Scale of {result['metric']}: standard normal noise has {result['noise']:.1f}"
        if result["floor"] is not None:
            scale += f", the test split {result['floor']:.2f}"
        if result["extractor_test_accuracy"] is not None:
            accuracy = result["extractor_test_accuracy"]
            scale += f"; the classifier's test accuracy is {accuracy:.3f}"
        notes.append(f"{scale}.")
    missing = sum(entry.evaluation is not None and entry.result is None for entry in entries)
    if missing:
        notes.append(f"{missing} of {len(entries)} entries have not been run ({MISSING}).")
    ours = [entry for entry in entries if entry.status != "literature"]
    if any(entry.paper is not None for entry in ours):
        notes.append("In brackets: the paper's value, and ours less the paper's.")
        notes.extend(_meaning_of_marks(table))
    if len(ours) < len(entries):
        notes.append(f"{LITERATURE} From other papers, as this one prints them; not run here.")
    return notes


def _meaning_of_marks(table: Table) -> list[str]:
    if table.band is None:
        return []
    reproduced, off = (MARKS[status].strip() for status in ("reproduced", "off"))
    relative = f"{table.band.relative:.0%}"
    return [
        f"{reproduced} within {table.band.absolute:g} or {relative} of the paper's value, the "
        f"wider of both (network evaluations: {relative}); {off} further away. {table.band.reason}"
    ]


def markdown(table: Table, frame: pd.DataFrame, notes: list[str]) -> str:
    alignment = ["left"] * len(table.headings) + ["right"] * len(table.columns)
    body = frame.to_markdown(index=False, colalign=alignment, disable_numparse=True)
    parts = [f"### {table.title}", table.caption, body, *notes]
    return "\n\n".join(part for part in parts if part) + "\n"


def latex(table: Table, frame: pd.DataFrame, notes: list[str]) -> str:
    """A booktabs table; the notes are part of the caption."""
    caption = " ".join([f"{table.title}.", table.caption, *notes])
    columns = "l" * len(table.headings) + "r" * len(table.columns)
    frame = frame.map(_escape).rename(columns=_escape)
    return frame.style.hide(axis="index").to_latex(
        caption=_escape(caption), column_format=columns, hrules=True, position_float="centering"
    )


def _escape(text: str) -> str:
    return "".join(f"\\{char}" if char in "&%$#_{}" else char for char in text)


def html(table: Table, frame: pd.DataFrame, notes: list[str]) -> str:
    """A page of its own: no script, nothing fetched."""
    body = frame.to_html(index=False, border=0)
    title = escape(table.title)
    paragraphs = "".join(f"<p>{escape(note)}</p>" for note in notes)
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{title}</title>"
        f"<style>{STYLE}</style><h1>{title}</h1><p>{escape(table.caption)}</p>{body}{paragraphs}"
    )


STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem; max-width: 60rem }
h1 { font-size: 1.2rem } table { border-collapse: collapse }
th, td { padding: .25rem .9rem; text-align: right; border-bottom: 1px solid #ddd }
th { border-bottom: 2px solid #333 } td:first-child, th:first-child { text-align: left }
"""


if __name__ == "__main__":
    main()

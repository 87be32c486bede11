"""The formats of a table: Markdown, CSV and LaTeX; psld/report/html.py makes the HTML."""

import csv
import io
import re
from pathlib import Path
from statistics import fmean

from tabulate import tabulate

from psld.grid.entries import TableEntry, read_table
from psld.grid.records import Grid
from psld.grid.tables import Table
from psld.report.html import table_page
from psld.report.table import EVERY_ENTRY, Text, summary, text_of
from psld.utils.files import write_text


def write_table(grid: Grid, name: str, output: str) -> None:
    """Write a table of a grid as OUTPUT.csv, OUTPUT.md, OUTPUT.tex and OUTPUT.html."""
    table, rows = grid.file.tables[name], read_table(grid, name)
    text = text_of(table, rows)
    write_text(f"{output}.csv", as_csv(grid, table, rows))
    write_text(f"{output}.md", markdown(text))
    write_text(f"{output}.tex", latex(text))
    write_text(f"{output}.html", table_page(text))


def print_tables(grid: Grid, root: Path) -> None:
    """Print every table of a grid with results below `root`, and a summary of their entries."""
    tables = {name: read_table(grid, name, root) for name in grid.file.tables}
    texts = [text_of(grid.file.tables[name], rows) for name, rows in tables.items()]
    for text in [*texts, summary(grid, tables)]:
        print(markdown(text, details=False))


def as_csv(grid: Grid, table: Table, rows: list[list[TableEntry]]) -> str:
    """Return the table for programs: one line per entry, with all that is known about it."""
    stream = io.StringIO()
    entries = [record(grid, table, entry) for row in rows for entry in row]
    writer = csv.DictWriter(stream, entries[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(entries)
    return stream.getvalue()


def record(grid: Grid, table: Table, entry: TableEntry) -> dict[str, object]:
    """Return all that is known about an entry; None for what is not."""
    number, results = entry.number, entry.results
    interval, rank = entry.interval, entry.rank
    return {
        **dict(zip(table.headings, entry.row.label, strict=True)),
        "seeds": len(results) if number else None,
        "column": entry.column,
        "cell": number and f"{grid.name}/{number.cell}",
        "metric": number and number.metric,
        "shows": entry.show,
        "ours": entry.value,
        "low": interval and interval.low,
        "high": interval and interval.high,
        "deviation": entry.deviation,
        "minimum": entry.minimum,
        "extrapolated": entry.extrapolated,
        "paper": entry.paper,
        "source": entry.row.source,
        "difference": entry.difference,
        "band": entry.width,
        "status": entry.status,
        "more_samples": entry.more_samples,
        "rank": rank and rank.name,
        "p_value": rank and rank.p_value,
        "paired": rank and rank.paired,
        "samples": entry.samples,
        "nfe": fmean(r.nfe for r in results) if results else None,
        "sampling_seconds": sum(r.sampling_seconds for r in results) if results else None,
        "sampling_device": ", ".join(dict.fromkeys(r.sampling_device for r in results)) or None,
    }


def markdown(text: Text, details: bool = True) -> str:
    """Return Markdown, with a list of every entry if `details`."""
    title, caption, *notes = map(_plain, [text.title, text.caption, *text.notes])
    parts = [f"### {title}", caption, _pipes(text, text.columns, text.lines), *notes]
    if details and text.details:
        parts += [f"#### {EVERY_ENTRY}", _pipes(text, text.detail_columns, text.details)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _pipes(text: Text, columns: list[str], lines: list[list[str]]) -> str:
    sides = ["left"] * text.headings + ["right"] * (len(columns) - text.headings)
    rows = [[_plain(cell).replace("|", r"\|") for cell in line] for line in (columns, *lines)]
    return tabulate(rows[1:], rows[0], tablefmt="pipe", colalign=sides, disable_numparse=True)


def _plain(text: str) -> str:
    """Return a text in one line of Markdown that holds no HTML element."""
    return re.sub(r"<(?=[A-Za-z/!?])", r"\\<", " ".join(text.split()))


def latex(text: Text) -> str:
    """Return a booktabs table, with the notes in its caption, and a long table of every entry."""
    caption = " ".join(filter(None, [f"{text.title}.", text.caption, *text.notes]))
    return "\n".join(
        [
            r"% Needs \usepackage{amssymb, booktabs, longtable}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_escape(caption)}}}",
            rf"\begin{{tabular}}{{{_sides(text, text.columns)}}}",
            *_rules(text.columns, text.lines),
            r"\end{tabular}",
            r"\end{table}",
            "",
            *(_long_table(text) if text.details else []),
        ]
    )


def _long_table(text: Text) -> list[str]:
    return [
        r"{\scriptsize",
        rf"\begin{{longtable}}{{{_sides(text, text.detail_columns)}}}",
        rf"\caption{{{_escape(f'{text.title}. {EVERY_ENTRY}.')}}} \\",
        *_rules(text.detail_columns, text.details),
        r"\end{longtable}}",
        "",
    ]


def _sides(text: Text, columns: list[str]) -> str:
    return "l" * text.headings + "r" * (len(columns) - text.headings)


def _rules(columns: list[str], lines: list[list[str]]) -> list[str]:
    head, *body = (f"{' & '.join(map(_escape, line))} \\\\" for line in (columns, *lines))
    return [r"\toprule", head, r"\midrule", *body, r"\bottomrule"]


SYMBOLS = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"[": "{[}", "*": "{*}"},  # at the start of a row, they would belong to the command before
    **{"<": "$<$", ">": "$>$", "−": "$-$", "×": r"$\times$", "±": r"$\pm$", "√": r"$\surd$"},
    **{"★": r"$\star$", "≈": r"$\approx$", "→": r"$\to$", "∞": r"$\infty$"},
    **{"Γ": r"$\Gamma$", "ν": r"$\nu$", "κ": r"$\kappa$"},
    **{"⁻": "$^{-}$", "¹": "$^{1}$", "²": "$^{2}$"},
    **{"✓": r"$\checkmark$", "✗": r"\textbf{x}", "†": r"$\dagger$"},
}
"""Commands for LaTeX's special characters and for those missing from its usual fonts."""


def _escape(text: str) -> str:
    return " ".join(text.split()).translate(str.maketrans(SYMBOLS))

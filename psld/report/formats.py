"""The formats of a table: Markdown, CSV, LaTeX and HTML."""

import csv
import io
import re
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from tabulate import tabulate

from psld.grid.cells import Grid
from psld.grid.entries import Entry
from psld.grid.rows import read_claims, read_table
from psld.grid.tables import RECORDED, Table
from psld.report.table import TableText, claims_text, summary, table_text
from psld.utils.errors import one_line
from psld.utils.files import write_text

TEMPLATES = Environment(
    loader=PackageLoader("psld.report"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
    finalize=lambda value: value.replace("`", "") if type(value) is str else value,
)
"""The templates of HTML pages, which have no script, fetch nothing, and escape all texts; captions
are written for Markdown, too, so their backticks go."""


def write_table(grid: Grid, name: str, output: str) -> None:
    """Write a table of a grid as OUTPUT.csv, OUTPUT.md, OUTPUT.tex and OUTPUT.html."""
    table, rows = grid.file.tables[name], read_table(grid, name)
    text = table_text(table, rows)
    write_text(f"{output}.csv", as_csv(table, rows))
    write_text(f"{output}.md", markdown(text))
    write_text(f"{output}.tex", latex(text))
    write_text(f"{output}.html", html(text))


def print_tables(grid: Grid, root: Path = Path(), with_summary: bool = True) -> None:
    """Print every table of a grid with results below `root`, its claims, and a summary."""
    tables = {name: read_table(grid, name, root) for name in grid.file.tables}
    texts = [table_text(grid.file.tables[name], rows) for name, rows in tables.items()]
    texts += [claims_text(read_claims(grid, root))] if grid.file.claims else []
    texts += [summary(grid, tables)] if with_summary else []
    for text in texts:
        print(markdown(text))


def html(text: TableText) -> str:
    """Return a page with one table."""
    return TEMPLATES.get_template("table.html").render(text=text)


def as_csv(table: Table, rows: list[list[Entry]]) -> str:
    """Return the table for programs: one line per entry, with all that is known about it."""
    stream = io.StringIO()
    entries = [csv_line(table, entry) for row in rows for entry in row]
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerows(map(_no_formula, line) for line in (entries[0], *map(dict.values, entries)))
    return stream.getvalue()


def _no_formula(value: object) -> object:
    """Return a value of a CSV; a text that spreadsheets would run gets an apostrophe in front."""
    return f"'{value}" if isinstance(value, str) and re.match(r"[=+\-@\t\r]", value) else value


def csv_line(table: Table, entry: Entry) -> dict[str, object]:
    """Return all that is known about an entry; None for what is not."""
    interval, rank, limit, results = entry.interval, entry.rank, entry.extrapolated, entry.results
    known = {
        "seeds": len(results) if entry.cells else None,
        "cell": f"{entry.cell.grid}/{entry.cell.name}" if entry.cells else None,
        "metric": entry.shown.metric,
        "shows": entry.show,
        "ours": entry.value,
        "low": interval and interval.low,
        "high": interval and interval.high,
        "extrapolated": limit and limit.value,
        "extrapolated_low": limit and limit.low,
        "extrapolated_high": limit and limit.high,
        "source": entry.row.source,
        "band": entry.width,
        "rank": rank and rank.name,
        "p_value": rank and rank.p_value,
        "paired": rank and rank.paired,
        "sampling_seconds": sum(r.sampling_seconds for r in results) if results else None,
        "sampling_device": ", ".join(dict.fromkeys(r.sampling_device for r in results)) or None,
    }
    labels = dict(zip(table.headings, entry.row.label, strict=True))
    # The other columns are attributes of the entry with the same name.
    return labels | {c: known[c] if c in known else getattr(entry, c) for c in RECORDED}


def markdown(text: TableText) -> str:
    title, caption, *notes = map(_plain, [text.title, text.caption, *text.notes, *text.alone])
    sides = ["left"] * text.headings + ["right"] * (len(text.columns) - text.headings)
    lines = [text.columns, *text.lines]
    head, *rows = [[_plain(cell).replace("|", r"\|") for cell in line] for line in lines]
    table = tabulate(rows, head, tablefmt="pipe", colalign=sides, disable_numparse=True)
    return "\n\n".join(filter(None, [f"### {title}", caption, table, *notes])) + "\n"


def _plain(text: str) -> str:
    """Return a text in one line of Markdown that holds no HTML element and no link."""
    return re.sub(r"\\*(<(?=[A-Za-z/!?])|](?=[(\[:]))", r"\\\1", one_line(text))


def latex(text: TableText) -> str:
    """Return a booktabs table, with the notes in its caption."""
    caption = " ".join(filter(None, [f"{text.title}.", text.caption, *text.notes, *text.alone]))
    sides = "l" * text.headings + "r" * (len(text.columns) - text.headings)
    lines = [text.columns, *text.lines]
    head, *body = (f"{' & '.join(map(_escape, line))} \\\\" for line in lines)
    lines = [
        r"% Needs \usepackage{amssymb, booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_escape(caption)}}}",
        rf"\begin{{tabular}}{{{sides}}}",
        *[r"\toprule", head, r"\midrule", *body, r"\bottomrule"],
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


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

"""The formats of a table: Markdown, CSV, LaTeX and HTML."""

import csv
import io
from collections.abc import Sequence
from html import escape

from tabulate import tabulate

from psld.grid.resolved import Grid
from psld.grid.results import TableEntry
from psld.grid.schema import Table
from psld.report.table import Text

EVERY_ENTRY = "Every entry; sampling time in seconds, summed over shards"


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
    result, evaluation = entry.result, entry.evaluation
    return {
        **dict(zip(table.headings, entry.row.label, strict=True)),
        "column": entry.column,
        "cell": evaluation and f"{grid.name}/{evaluation.cell}",
        "metric": evaluation and evaluation.metric,
        "shows": entry.show,
        "ours": entry.value,
        "paper": entry.paper,
        "source": entry.row.source,
        "difference": entry.difference,
        "band": entry.width,
        "status": entry.status,
        "samples": evaluation and evaluation.samples,
        "nfe": result and result.nfe,
        "sampling_seconds": result and result.sampling_seconds,
        "sampling_device": result and result.sampling_device,
    }


def markdown(text: Text, details: bool = True) -> str:
    """Return Markdown, with a list of every entry if `details`."""
    parts = [f"### {text.title}", text.caption, _pipes(text, text.columns, text.lines), *text.notes]
    if details:
        parts += [f"#### {EVERY_ENTRY}", _pipes(text, text.detail_columns, text.details)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _pipes(text: Text, columns: list[str], lines: list[list[str]]) -> str:
    sides = ["left"] * text.headings + ["right"] * (len(columns) - text.headings)
    return tabulate(lines, columns, tablefmt="pipe", colalign=sides, disable_numparse=True)


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
            r"{\scriptsize",
            rf"\begin{{longtable}}{{{_sides(text, text.detail_columns)}}}",
            rf"\caption{{{_escape(f'{text.title}. {EVERY_ENTRY}.')}}} \\",
            *_rules(text.detail_columns, text.details),
            r"\end{longtable}}",
            "",
        ]
    )


def _sides(text: Text, columns: list[str]) -> str:
    return "l" * text.headings + "r" * (len(columns) - text.headings)


def _rules(columns: list[str], lines: list[list[str]]) -> list[str]:
    head, *body = (f"{' & '.join(map(_escape, line))} \\\\" for line in (columns, *lines))
    return [r"\toprule", head, r"\midrule", *body, r"\bottomrule"]


SYMBOLS = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"<": "$<$", ">": "$>$", "−": "$-$", "×": r"$\times$", "±": r"$\pm$", "√": r"$\surd$"},
    **{"Γ": r"$\Gamma$", "ν": r"$\nu$", "κ": r"$\kappa$"},
    **{"⁻": "$^{-}$", "¹": "$^{1}$", "²": "$^{2}$"},
    **{"✓": r"$\checkmark$", "✗": r"\textbf{x}", "†": r"$\dagger$"},
}
"""Commands for LaTeX's special characters and for those missing from its usual fonts."""


def _escape(text: str) -> str:
    return text.translate(str.maketrans(SYMBOLS))


def html(text: Text) -> str:
    """Return a whole page: no script, nothing fetched."""
    title, notes = escape(text.title), "".join(f"<p>{escape(note)}</p>" for note in text.notes)
    plain = [[""] * (len(line) - text.headings) for line in text.details]
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{title}</title>"
        f"<style>{STYLE}</style><h1>{title}</h1><p>{escape(text.caption)}</p>"
        f"{_html_table(text, text.columns, text.lines, text.marks)}{notes}"
        f"<details><summary>{EVERY_ENTRY}</summary>"
        f"{_html_table(text, text.detail_columns, text.details, plain)}</details>\n"
    )


def _html_table(
    text: Text, columns: list[str], lines: list[list[str]], classes: Sequence[Sequence[str]]
) -> str:
    """Return a table whose cells after the headings have these classes."""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = ""
    for line, kinds in zip(lines, classes, strict=True):
        cells = zip(line, ["heading"] * text.headings + list(kinds), strict=True)
        row = "".join(f"<td class='{kind}'>{escape(cell)}</td>" for cell, kind in cells)
        body += f"<tr>{row}</tr>"
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem; max-width: 72rem }
h1 { font-size: 1.2rem } table { border-collapse: collapse } summary { cursor: pointer }
th, td { padding: .25rem .9rem; text-align: right; border-bottom: 1px solid #ddd }
th { border-bottom: 2px solid #333 } .heading, th:first-child { text-align: left }
.reproduced { background: #e3f3ec } .off { background: #fbe9dd }
.literature, .not { color: #666 } details td, details th { font-size: .85rem }
"""
"""Colors repeat the marks; `not` is the first half of the class `not run`."""

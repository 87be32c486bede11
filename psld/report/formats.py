"""The formats of a table: Markdown, CSV, LaTeX and HTML."""

import csv
import io
from collections.abc import Sequence
from html import escape

from tabulate import tabulate

from psld.grid.loading import Grid
from psld.grid.schema import Table
from psld.grid.results import TableEntry
from psld.report.table import Text

EVERY_ENTRY = "Every entry, with what it took: sampling in seconds, summed over shards"

Lines = Sequence[Sequence[str]]


def as_csv(grid: Grid, table: Table, rows: list[list[TableEntry]]) -> str:
    """The table as programs read it: one line an entry, with everything that is known of it."""
    stream = io.StringIO()
    records = [record_of(grid, table, entry) for row in rows for entry in row]
    writer = csv.DictWriter(stream, records[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return stream.getvalue()


def record_of(grid: Grid, table: Table, entry: TableEntry) -> dict[str, object]:
    """What is known of an entry; None stands for what is not."""
    result, evaluation = entry.result or {}, entry.evaluation
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
        "nfe": result.get("nfe"),
        "sampling_seconds": result.get("sampling_seconds"),
        "sampling_device": result.get("sampling_device"),
    }


def markdown(text: Text, details: bool = True) -> str:
    parts = [f"### {text.title}", text.caption, _pipes(text.headings, text.columns, text.lines)]
    parts += text.notes
    if details:
        parts += [f"#### {EVERY_ENTRY}", _pipes(text.headings, text.detail_columns, text.details)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _pipes(headings: int, columns: Sequence[str], lines: Lines) -> str:
    sides = ["left"] * headings + ["right"] * (len(columns) - headings)
    return tabulate(lines, columns, tablefmt="pipe", colalign=sides, disable_numparse=True)


def latex(text: Text) -> str:
    """A booktabs table, whose caption holds the notes, and a long one of every entry."""
    caption = " ".join(filter(None, [f"{text.title}.", text.caption, *text.notes]))
    return "\n".join(
        [
            r"% Needs \usepackage{amssymb, booktabs, longtable}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_escape(caption)}}}",
            rf"\begin{{tabular}}{{{_sides(text.headings, text.columns)}}}",
            *_rules(text.columns, text.lines),
            r"\end{tabular}",
            r"\end{table}",
            "",
            r"{\scriptsize",
            rf"\begin{{longtable}}{{{_sides(text.headings, text.detail_columns)}}}",
            rf"\caption{{{_escape(f'{text.title}. {EVERY_ENTRY}.')}}} \\",
            *_rules(text.detail_columns, text.details),
            r"\end{longtable}}",
            "",
        ]
    )


def _sides(headings: int, columns: Sequence[str]) -> str:
    return "l" * headings + "r" * (len(columns) - headings)


def _rules(columns: Sequence[str], lines: Lines) -> list[str]:
    head, *body = (f"{' & '.join(map(_escape, line))} \\\\" for line in (columns, *lines))
    return [r"\toprule", head, r"\midrule", *body, r"\bottomrule"]


SYMBOLS = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "✓": r"$\checkmark$",
    "✗": r"\textbf{x}",
    "†": r"$\dagger$",
    "Γ": r"$\Gamma$",
    "ν": r"$\nu$",
    "κ": r"$\kappa$",
    "−": "$-$",
    "×": r"$\times$",
    "±": r"$\pm$",
    "⁻": "$^{-}$",
    "¹": "$^{1}$",
    "²": "$^{2}$",
    "√": r"$\surd$",
}
"""What LaTeX's usual fonts lack, or it would read as a command."""


def _escape(text: str) -> str:
    return "".join(SYMBOLS.get(character, character) for character in text)


def html(text: Text) -> str:
    """A page of its own: no script, nothing fetched."""
    title, notes = escape(text.title), "".join(f"<p>{escape(note)}</p>" for note in text.notes)
    classes = [["heading"] * text.headings + list(marks) for marks in text.marks]
    plain = [
        ["heading"] * text.headings + [""] * (len(line) - text.headings) for line in text.details
    ]
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{title}</title>"
        f"<style>{STYLE}</style><h1>{title}</h1><p>{escape(text.caption)}</p>"
        f"{_table(text.columns, text.lines, classes)}{notes}"
        f"<details><summary>{EVERY_ENTRY}</summary>"
        f"{_table(text.detail_columns, text.details, plain)}</details>\n"
    )


def _table(columns: Sequence[str], lines: Lines, classes: Lines) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(
        f"<tr>{''.join(map(_cell, line, kinds))}</tr>"
        for line, kinds in zip(lines, classes, strict=True)
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(text: str, kind: str) -> str:
    return f"<td class='{kind}'>{escape(text)}</td>"


STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem; max-width: 72rem }
h1 { font-size: 1.2rem } table { border-collapse: collapse } summary { cursor: pointer }
th, td { padding: .25rem .9rem; text-align: right; border-bottom: 1px solid #ddd }
th { border-bottom: 2px solid #333 } .heading, th:first-child { text-align: left }
.reproduced { background: #e3f3ec } .off { background: #fbe9dd }
.literature, .not { color: #666 } details td, details th { font-size: .85rem }
"""
"""Colours repeat what the marks say; `not` is the first half of the class `not run`."""

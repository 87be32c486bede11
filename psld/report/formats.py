"""The formats of a table: Markdown, CSV and LaTeX; psld/report/html.py makes the HTML."""

import csv
import io

from tabulate import tabulate

from psld.grid.resolved import Grid
from psld.grid.results import TableEntry
from psld.grid.schema import Table
from psld.report.table import EVERY_ENTRY, Text


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

"""Commands that plan a grid, show its results, and certify them.

torch and matplotlib take seconds to import, so the settings are checked first.
"""

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from pydantic import Field

from psld.commands.main import entry_point
from psld.config.settings import Settings
from psld.grid.cache import load_grid
from psld.grid.figures import all_figures
from psld.grid.rows import read_tables
from psld.utils.errors import NotComparedError, RunError, UserError, one_line
from psld.utils.files import sha256_of_file, write_text


class GridSettings(Settings):
    """Settings of all commands about a grid."""

    grid_name: str = "demo"
    """Name of the grid, configs/grid/NAME.yaml."""


class OutputSettings(GridSettings):
    output: str | None = None
    """Path of the file, of a table or a figure without extension; null: its place in results/."""


class PlanSettings(GridSettings):
    list: Literal["cells", "figures"] | None = None
    """List the names of all cells, or of all figures, instead of the plan."""
    sustained_tflops: float | None = Field(None, gt=0)
    """TFLOP/s of a GPU on convolutions, for networks that have not been run here; null leaves
    their hours unknown."""


@entry_point("plan", PlanSettings, has_config=False)
def plan(settings: PlanSettings) -> None:
    """Plan a grid: its models, cells, jobs, time on a CPU core and GPU hours.

        psld plan grid_name=paper
        psld plan grid_name=paper sustained_tflops=100   # for networks that have not been run here
        psld plan grid_name=demo list=cells              # each is a target of Snakemake

    GPU hours follow from the speed of what has been run here, or else from a GPU's TFLOP/s.
    """
    grid = load_grid(settings.grid_name)
    match settings.list:
        case "cells":
            print("\n".join(f"{grid.name}/{cell.name}" for cell in grid.measured_cells))
        case "figures":
            print("\n".join(all_figures(grid)))
        case None:
            from psld.report.plan import COUNTED, description  # imports torch

            if not COUNTED.exists():
                print("counting the work of each network, once", file=sys.stderr)
            print(description(grid, settings.sustained_tflops))


class TabulateSettings(OutputSettings):
    table: str | None = None
    """Name of the table to write; null: print all tables."""


@entry_point("tabulate", TabulateSettings, has_config=False)
def tabulate(settings: TabulateSettings) -> None:
    """Tabulate a grid: one table as Markdown, CSV, LaTeX and HTML, or all tables on the terminal.

        psld tabulate grid_name=demo                    # print all tables
        psld tabulate grid_name=demo table=demo-steps   # write results/tables/demo/demo-steps.*

    Cells that have not been run are shown as –.
    """
    if settings.output and settings.table is None:
        raise UserError("output: is for one table; add table=NAME")
    from psld.report.table import print_tables, write_table

    grid = load_grid(settings.grid_name)
    if settings.table is None:
        print_tables(grid)
        return
    if settings.table not in grid.file.tables:
        raise UserError(
            f"table: {settings.table!r} is not in grid {settings.grid_name}; "
            f"there are: {', '.join(grid.file.tables)}"
        )
    output = settings.output or grid.table(settings.table)
    write_table(grid, settings.table, output)
    print(f"wrote {output}.csv, {output}.md, {output}.tex and {output}.html")


class FigureSettings(OutputSettings):
    figure: str
    """Name of a figure of the grid."""


@entry_point("figure", FigureSettings, has_config=False)
def figure(settings: FigureSettings) -> None:
    """Draw a figure of a grid.

        psld figure grid_name=demo figure=nfe              # distance against network evaluations
        psld figure grid_name=demo figure=samplers/cld     # the samplers of one model, side by side

    `psld plan grid_name=demo list=figures` lists a grid's figures. Writes OUTPUT.png and
    OUTPUT.svg, by default as results/figures/GRID/FIGURE.
    """
    from psld.report.figures import draw_figure
    from psld.report.plots import save

    grid = load_grid(settings.grid_name)
    drawn = draw_figure(grid, settings.figure)
    save(drawn, settings.output or grid.figure(settings.figure))


@entry_point("page", OutputSettings, has_config=False)
def page(settings: OutputSettings) -> None:
    """Write the page of a grid's results, one HTML file for reading, and print what came out.

        psld page grid_name=demo        # results/demo.html

    It lists what has not been run, too.
    """
    from psld.report.page import results_page
    from psld.report.table import answers

    grid = load_grid(settings.grid_name)
    output = settings.output or grid.page
    write_text(output, results_page(grid))
    for answer, name in answers(grid, read_tables(grid)).items():
        print(f"{grid.file.tables[name].title}\n    {answer}")
    print(f"Page: {output}")


@entry_point("certify", OutputSettings, has_config=False)
def certify(settings: OutputSettings) -> None:
    """Certify a grid: pack what its tables are computed from into one file for `psld verify`.

        psld certify grid_name=demo     # results/certificates/demo.zip

    It holds the grid, results, kept features, manifests and tables; no images and no weights.
    """
    from psld.report import certificate

    grid = load_grid(settings.grid_name)
    output = Path(settings.output or grid.certificate)
    cells, size = certificate.certify(grid, output), output.stat().st_size / 1e6
    print(f"wrote {output}: {cells} of {len(grid.measured_cells)} cells, {size:.1f} MB")
    print(f"SHA-256 {sha256_of_file(output)}")


class VerifySettings(Settings):
    certificate: Path
    """Path of the certificate, or of a folder of its files."""
    grid_name: str | None = None
    """Name of your grid to compare with; null: the one with the certificate's name, if any."""
    reference: Path | None = None
    """Folder that has references of your own, there or below, such as features/digits."""


@entry_point("verify", VerifySettings, positionals=("certificate",), has_config=False)
def verify(settings: VerifySettings) -> None:
    """Verify a certificate: compute its tables again, compare them, and list every difference.

        psld verify demo.zip                              # or the folder of its files
        psld verify demo.zip grid_name=demo               # values, settings, texts, with your grid
        psld verify demo.zip reference=features/digits    # and the reference, with your own

    Exits with 0 if nothing differs, with 1 if something differs, with 2 for a file that is damaged
    or not a certificate, and with 3 if nothing differs but something could not be compared: a
    number or interval without its features. docs/certificates.md says what that proves.
    """
    import torch

    from psld.report import certificate
    from psld.report.table import print_tables

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)  # On a busy machine, two threads took ten times as long.
    path = settings.certificate
    with TemporaryDirectory(prefix="psld-") as temporary:
        verified = certificate.verify(path, Path(temporary), settings.grid_name, settings.reference)
        print_tables(verified.grid, verified.results, with_summary=False)
    for line in verified.wrong:
        print(one_line(f"differs: {path}: {line}"))
    for table, checked in verified.tables.items():
        counts = ", ".join(f"{n} {what}" for what, n in sorted(checked.items()))
        print(one_line(f"{path}: {table}: {counts}"))
    total = sum(sum(checked.values()) for checked in verified.tables.values())
    print(f"{path}: {total} numbers in all, {len(verified.wrong)} differences")
    for line in verified.notes:
        print(one_line(f"{path}: {line}"))
    print(
        f"{path}: only read: SHA-256 of weights and starts, Gaussians, seconds, devices, versions"
    )
    print(f"{path}: not proven: that the features are of samples of the models that are named")
    if path.is_file():
        print(f"{path}: SHA-256 {sha256_of_file(path)}")
    if verified.wrong:
        raise RunError(f"{path}: {len(verified.wrong)} differences, listed above")
    if verified.missing:
        raise NotComparedError("; ".join(verified.missing))

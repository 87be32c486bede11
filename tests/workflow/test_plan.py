"""What Snakemake plans before anything exists, and what it says of a grid that is wrong."""

import pytest

from tests.workflow.project import GRID, WHOLE_GRID

CELL = {
    "prepare": 1,
    "train_extractor": 1,
    "reference": 1,
    "train": 1,
    "sample": 2,
    "evaluate": 1,
}
TABLE = {**CELL, "train": 2, "sample": 4, "evaluate": 2, "tabulate": 1}

MODULES = """
import sys
Path("modules.txt").write_text("\\n".join(sys.modules))
"""


def test_a_dry_run_before_anything_exists_lists_every_stage(fresh):
    assert fresh.plan() == WHOLE_GRID, "the default target is every grid, and there is one"
    assert not (fresh.folder / "data").exists()


def test_a_cell_alone_needs_its_own_chain_only(fresh):
    assert fresh.plan("tiny/psld/rk45-1e-1") == CELL


def test_a_table_alone_needs_its_cells_only(fresh):
    assert fresh.plan("tiny-steps") == TABLE


def imported(project):
    """The modules that a dry run imports into Snakemake's own process."""
    project.plan("tiny/psld/em-3")
    return set((project.folder / "modules.txt").read_text().splitlines())


def test_a_second_parse_composes_nothing_until_a_config_changes(fresh):
    with (fresh.folder / "Snakefile").open("a") as snakefile:
        snakefile.write(MODULES)
    first, second = imported(fresh), imported(fresh)
    assert "psld.grid" in first
    assert "torch" not in first, "every job of a cluster parses the grids"
    assert "hydra" in first
    assert "hydra" not in second, "the cache answers"
    fresh.edit("configs/training/tiny.yaml", "warmup_steps: 2", "warmup_steps: 1")
    assert "hydra" in imported(fresh)
    assert len(fresh.files(".cache/grids")) == 2


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("samples: 20", "smaples: 20", "unknown key smaples"),
        ("[sampler=em]", "[sampler=sscs]", "vp-sde/em-3: sscs needs a process with momentum"),
    ],
    ids=["unknown key", "no momentum"],
)
def test_a_bad_grid_is_refused_in_one_line(fresh, old, new, complaint):
    fresh.edit(GRID, old, new)
    done = fresh.snakemake("--dry-run", "tiny")
    assert done.returncode == 1
    assert "Traceback" not in done.stdout
    assert done.stdout.count("WorkflowError") == 1
    [line] = [line for line in done.stdout.splitlines() if complaint in line]
    assert line.startswith(str(fresh.folder / GRID))

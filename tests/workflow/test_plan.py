"""Snakemake's plan before anything exists, and its errors for an invalid grid."""

import pytest

from psld.grid.loading import write_cache
from psld.grid.resolved import Grid
from tests.grid.variants import large_grid
from tests.workflow.project import GRID, RULES, WHOLE_GRID, Project

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

RULES_MADE = """
Path("rules.txt").write_text("\\n".join(rule.name for rule in workflow.rules))
"""


def test_a_dry_run_before_anything_exists_lists_every_stage(fresh):
    assert fresh.plan() == WHOLE_GRID, "the default is the demo, or the only grid"
    assert not (fresh.folder / "data").exists()


def test_a_cell_alone_needs_its_own_chain_only(fresh):
    assert fresh.plan("tiny/psld/rk45-1e-1") == CELL


def test_a_table_alone_needs_its_cells_only(fresh):
    assert fresh.plan("tiny-steps") == TABLE


def imported(project: Project) -> set[str]:
    """The modules that a dry run imports into Snakemake's own process."""
    project.plan("tiny/psld/em-3")
    return set((project.folder / "modules.txt").read_text().splitlines())


@pytest.mark.slow
def test_a_second_parse_composes_nothing_until_a_config_changes(fresh):
    with (fresh.folder / "Snakefile").open("a") as snakefile:
        snakefile.write(MODULES)
    first, second = imported(fresh), imported(fresh)
    assert "psld.grid.workflow" in first
    assert "torch" not in first, "every job of a cluster parses the grids"
    assert "hydra" in first
    assert "hydra" not in second, "the cache answers"
    fresh.edit("configs/training/tiny.yaml", "warmup_steps: 2", "warmup_steps: 1")
    assert "hydra" in imported(fresh)
    assert len(fresh.files(".cache/grids")) == 1, "old caches do not pile up"


def rules_made(project: Project) -> set[str]:
    """The rules that Snakemake had when it had read the Snakefile."""
    return set((project.folder / "rules.txt").read_text().splitlines())


def test_only_cells_of_the_command_line_become_rules(fresh):
    """Of a grid of ten thousand cells, put in the place of the one that is in the cache."""
    with (fresh.folder / "Snakefile").open("a") as snakefile:
        snakefile.write(RULES_MADE)
    names = {*RULES, "all", "tiny"}
    fresh.plan("tiny-steps")
    assert rules_made(fresh) == names | {"tiny-steps", "tiny-tolerance"}
    [cached] = fresh.files(".cache/grids")
    digest, tiny, *_ = cached.read_text().split("\n")
    tiny = Grid.model_validate_json(tiny)
    grid = large_grid(tiny, models=100, budgets=100)
    write_cache(cached, digest, grid, {})
    cell = f"tiny/{grid.cells[4242]}"
    assert len(grid.cells) == 10_000
    assert fresh.plan(cell, "data/digits.h5") == CELL
    assert rules_made(fresh) == names | {"tiny-large", cell}
    unknown = fresh.snakemake("--dry-run", "tiny/model-1/em-3000")
    assert unknown.returncode == 1
    [line] = [line for line in unknown.stdout.splitlines() if "tiny/model-1/em-3000" in line]
    assert line.startswith("tiny/model-1/em-3000: no such target; the nearest are: tiny/model-1")
    assert "MissingRule" not in unknown.stdout


def test_a_users_own_grid_stands_next_to_the_others(fresh):
    own = (fresh.folder / GRID).read_text().replace("tiny-", "mine-")
    (fresh.folder / "configs/grid/mine.yaml").write_text(own)
    planned = fresh.plan("mine/psld/em-3", "tiny/psld/em-3")
    assert planned == {**CELL, "train": 2, "sample": 4, "evaluate": 2}


def test_shards_of_one_cell_are_sampled_in_ranges(fresh):
    """How many shards a job makes is a matter of speed."""
    fresh.edit(GRID, "shards_per_job: 2", "shards_per_job: 3")
    assert fresh.plan("tiny-steps") == TABLE, "three and one"
    fresh.edit(GRID, "shards_per_job: 3", "shards_per_job: 4")
    assert fresh.plan("tiny-steps") == {**TABLE, "sample": 2}


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

"""Snakemake's plan before anything exists, and its errors for an invalid grid."""

import pytest

from tests.commands import read_only
from tests.workflow.project import GRID, RULES, WHOLE_GRID

CELL = {"prepare": 1, "train_extractor": 1, "reference": 1, "train": 1, "sample": 2, "evaluate": 1}
LISTS = """\nPath("rules.txt").write_text(" ".join(rule.name for rule in workflow.rules))\n"""


def test_a_dry_run_before_anything_exists_lists_every_stage(fresh):
    assert fresh.plan() == WHOLE_GRID, "the default is the demo, or the only grid"
    assert not (fresh.folder / "data").exists()


def test_a_cell_alone_needs_its_own_chain_only_and_a_bad_grid_stops_who_asks_for_it(fresh):
    """Only the cells on the command line become rules, because a grid may have ten thousand."""
    bad = (fresh.folder / GRID).read_text().replace("[sampler=em]", "[sampler=sscs]")
    (fresh.folder / "configs/grid/bad.yaml").write_text(bad.replace("tiny-", "bad-"))
    with (fresh.folder / "Snakefile").open("a") as snakefile:
        snakefile.write(LISTS)
    cell, tables = "tiny/psld/rk45-1e-1", {"tiny-steps", "tiny-tolerance"}
    assert fresh.plan(cell) == CELL
    rules = (fresh.folder / "rules.txt").read_text().split()
    targets = {"tiny", *tables, "bad", "bad-steps", "bad-tolerance", cell}
    assert set(rules) == {*RULES, "all", "default", *targets}

    done = fresh.snakemake("--dry-run", "bad")
    assert done.returncode == 2
    assert "in file" not in done.stdout, "no frames of Snakemake around the line"
    complaint = "vp-sde/em-3: sscs needs a process with momentum"
    [line] = [line for line in done.stdout.splitlines() if complaint in line]
    assert line.startswith(f"error: {fresh.folder}/configs/grid/bad.yaml")
    assert done.stdout.endswith(f"{line}\n")


def test_a_folder_that_cannot_be_written_is_one_line(fresh):
    """Snakemake writes into its own folder, also for a dry run."""
    place = (fresh.folder / ".snakemake").resolve()
    place.mkdir()
    with read_only(place):
        ended = fresh.snakemake("--dry-run")
    assert ended.returncode == 2
    line = f"error: {fresh.folder}/.snakemake/psld: {place} is not a writable folder"
    assert line in ended.stdout
    assert "Traceback" not in ended.stdout


@pytest.mark.slow
def test_no_job_of_a_grid_imports_hydra(finished_once):
    """One process has run all stages, from the first to the last file."""
    imported = set((finished_once.folder / "modules.txt").read_text().split())
    assert {"torch", "matplotlib", "h5py"} < imported
    assert not {"hydra", "omegaconf", "submitit"} & imported
    assert " ± " in (finished_once.folder / "results/tables/tiny/tiny-steps.md").read_text()

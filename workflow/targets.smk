"""Targets: the names of grids, tables, figures and cells.

A Snakefile includes this file after all rules, because a rule name cannot be a target name too.
"""

import gc
import sys
from pathlib import Path

from snakemake.cli import get_argument_parser

from psld.cluster.head import begin_run
from psld.utils.files import check_place

# Use a high threshold, because the jobs of a large grid are millions of long-lived objects. With the
# default threshold, garbage collection takes a quarter of the time of a dry run.
gc.set_threshold(100_000)


onstart:
    begin_run(with_fork_server=workflow.local_exec)
    references = [
        job.wildcards for job in workflow.dag.needrun_jobs() if job.rule.name == "reference"
    ]
    with in_one_line():
        load_networks(map(GRIDS.reference, references))


report: "report/workflow.rst"


with in_one_line():
    check_place(Path(".snakemake/psld").absolute())

GRIDS.rules = {rule.name for rule in workflow.rules}


for target in GRIDS.targets:

    rule:
        name:
            target
        input:
            lambda w, target=target: GRIDS.target_files(target),
        localrule: True


def asked_targets():
    """Return the targets on the command line, before Snakemake itself parses them.

    The list is empty in the processes of single jobs and in programs that call Snakemake's API.
    """
    if not (workflow.is_main_process and "snakemake" in sys.argv[0]):
        return []
    if words := get_argument_parser().parse_args(sys.argv[1:]).targets:
        return words
    inputs = workflow.get_rule(workflow.default_target).input
    # The inputs of the default target are either file names or functions.
    has_files = any(isinstance(each, str) for each in inputs)
    return [] if has_files else [GRIDS.default]


# Resolve the grids of the targets here, so that the error for an unresolvable grid is one line.
# Otherwise, Snakemake would report this error as an error in the rules.
with in_one_line():
    CELLS = GRIDS.cells_among(asked_targets())

# Each cell is a target, but only the requested cells get a rule, because a grid may have ten thousand
# cells.
for target, files in CELLS.items():

    rule:
        name:
            target
        input:
            files,
        localrule: True

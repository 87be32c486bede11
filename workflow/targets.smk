"""The names of grids, tables, figures and cells as targets, and the check of those that are asked for.

A Snakefile includes this after its rules, because the check has to know all of them.
"""

import gc
import sys
from pathlib import Path

from snakemake.cli import get_argument_parser

from psld.cluster.head import begin_run

# The jobs of a large grid are millions of objects that live to the end. Looking for garbage among
# them as often as Python does takes a quarter of the time of a dry run.
gc.set_threshold(100_000)


onstart:
    begin_run()


report: "report/workflow.rst"


with in_one_line():
    Path(".snakemake").absolute().mkdir(exist_ok=True)
    GRIDS.check_names(rule.name for rule in workflow.rules)


for target, files in GRIDS.targets().items():

    rule:
        name:
            target
        input:
            files,
        localrule: True


def asked_targets():
    """Return the targets on the command line, which Snakemake has only after it has read the rules.

    Its processes of single jobs, and programs that call it, ask for none here.
    """
    if not (workflow.is_main_process and "snakemake" in sys.argv[0]):
        return []
    return get_argument_parser().parse_args(sys.argv[1:]).targets or [GRIDS.default]


ASKED = asked_targets()

# The name of each cell is a target. Only the cells that are asked for get a rule, because a grid
# may have ten thousand cells.
for target, file in GRIDS.cells_among(ASKED).items():

    rule:
        name:
            target
        input:
            file,
        localrule: True


# Snakemake would report a wrong target as an error of the rules. `all` is the paper.
with in_one_line():
    GRIDS.check_targets(
        ASKED,
        makes=lambda file: any(rule.is_producer(file) for rule in workflow.rules),
        rules={rule.name for rule in workflow.rules},
    )

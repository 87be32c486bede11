"""The grids as a workflow: prepare → train → sample → evaluate → tabulate.

    snakemake                            the whole demo grid, like snakemake demo
    snakemake demo/cld/em-uniform-40     one cell of it
    snakemake demo-steps                 one table, or one figure
    snakemake all                        the paper: weeks of GPU time (psld plan grid_name=paper)

profiles/ sets where the jobs run; configs/ sets what they compute.
"""

import gc
import sys

from snakemake.cli import get_argument_parser

from psld.cluster.head import repair_snakemake

# The jobs of a large grid are millions of objects that live to the end. Looking for garbage among
# them as often as Python does takes a quarter of the time of a dry run.
gc.set_threshold(100_000)
repair_snakemake()


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/models.smk"
include: "workflow/rules/samples.smk"
include: "workflow/rules/results.smk"


rule all:
    input:
        GRIDS.files("paper") if "paper" in GRIDS.grids else [],
    localrule: True


with one_line():
    GRIDS.check_names(rule.name for rule in workflow.rules)


for target, files in GRIDS.targets().items():

    rule:
        name:
            target
        default_target: target == GRIDS.default
        input:
            files,
        localrule: True


# The name of each cell is a target. Only the cells on the command line get a rule, because a grid
# may have ten thousand cells.
for target, file in GRIDS.cells_among(sys.argv).items():

    rule:
        name:
            target
        input:
            file,
        localrule: True


# Snakemake would report a wrong target as an error of the rules, and it has the targets only later.
if workflow.is_main_process and "snakemake" in sys.argv[0]:
    asked = get_argument_parser().parse_args(sys.argv[1:]).targets or [GRIDS.default]
    words = ("paper" if word == "all" else word for word in asked)
    with one_line():
        GRIDS.check_targets(
            (word for word in words if not workflow.is_rule(word)),
            makes=lambda file: any(rule.is_producer(file) for rule in workflow.rules),
        )

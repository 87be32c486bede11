"""The grids as a workflow: prepare → train → sample → evaluate → tabulate.

    snakemake                            the demo grid, whole; so does snakemake demo
    snakemake demo/cld/em-uniform-40     one cell of it alone
    snakemake demo-steps                 one table; a figure alike
    snakemake all                        the paper: weeks of GPU time (psld plan)

Everything about *where* it runs stands in profiles/, everything about *what* in configs/.
"""

from psld.cluster.executor import mend_slurm_executor

mend_slurm_executor()


include: "workflow/rules/common.smk"
include: "workflow/rules/prepare.smk"
include: "workflow/rules/train_extractor.smk"
include: "workflow/rules/reference.smk"
include: "workflow/rules/import_checkpoint.smk"
include: "workflow/rules/import_guide.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/train_guide.smk"
include: "workflow/rules/sample.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/tabulate.smk"
include: "workflow/rules/trace.smk"


localrules:
    all,


rule all:
    input:
        [results_of_grid(grid) for grid in GRIDS if grid == "paper"],


# Without a target, the demo: the paper takes weeks of GPU time.
DEFAULT = "demo" if "demo" in GRIDS else min(GRIDS)


for grid in GRIDS:

    rule:
        name:
            grid
        default_target: grid == DEFAULT
        input:
            results_of_grid(grid),
        localrule: True

    for table in GRIDS[grid].file.tables:

        rule:
            name:
                table
            input:
                results_of_table(grid, table),
            localrule: True

    for figure, pictures in GRIDS[grid].file.figure_targets.items():

        rule:
            name:
                figure
            input:
                [f"results/figures/{grid}/{picture}.png" for picture in pictures],
            localrule: True

    for cell in GRIDS[grid].cells:

        rule:
            name:
                f"{grid}/{cell}"
            input:
                results_of_cell(grid, cell),
            localrule: True

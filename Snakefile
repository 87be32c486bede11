"""The grids as a workflow: prepare → train → sample → evaluate → tabulate.

    snakemake demo                       the demo grid, whole
    snakemake demo/cld/em-uniform-20     one cell of it alone
    snakemake demo-steps                 one table

Everything about *where* it runs stands in profiles/, everything about *what* in configs/.
"""


include: "workflow/rules/common.smk"
include: "workflow/rules/prepare.smk"
include: "workflow/rules/train_extractor.smk"
include: "workflow/rules/reference.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/sample.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/tabulate.smk"


localrules:
    all,


rule all:
    default_target: True
    input:
        [results_of_grid(grid) for grid in GRIDS],


for grid in GRIDS:

    rule:
        name:
            grid
        localrule: True
        input:
            results_of_grid(grid),

    for table in GRIDS[grid].file.tables:

        rule:
            name:
                table
            localrule: True
            input:
                results_of_table(grid, table),

    for cell in GRIDS[grid].cells:

        rule:
            name:
                f"{grid}/{cell}"
            localrule: True
            input:
                results_of_cell(grid, cell),

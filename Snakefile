"""The grids as a workflow: prepare → train → sample → evaluate → tabulate.

    snakemake                            the demo grid, the same as snakemake demo
    snakemake demo/cld/em-quadratic-40   one cell of the demo grid
    snakemake demo-steps                 one table; figures work the same way
    snakemake all                        the paper: weeks of GPU time (psld plan grid_name=paper)

profiles/ sets where jobs run; configs/ sets what jobs compute.
"""


include: "workflow/psld.smk"


rule default:
    input:
        lambda w: GRIDS.target_files(GRIDS.default),
    localrule: True


rule all:
    input:
        lambda w: GRIDS.target_files("paper"),
    localrule: True


include: "workflow/targets.smk"

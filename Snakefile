"""The grids as a workflow: prepare → train → sample → evaluate → tabulate.

    snakemake                            the whole demo grid, like snakemake demo
    snakemake demo/cld/em-quadratic-40   one cell of it
    snakemake demo-steps                 one table, or one figure
    snakemake all                        the paper: weeks of GPU time (psld plan grid_name=paper)

profiles/ sets where the jobs run; configs/ sets what they compute.
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

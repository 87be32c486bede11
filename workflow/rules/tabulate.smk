# Reads: the metrics of cells.  Makes: tables and pictures, which the report shows.


rule tabulate:
    input:
        lambda wildcards: evaluations_of_table(wildcards.grid, wildcards.table),
    output:
        multiext("results/tables/{grid}/{table}", ".md", ".csv", ".tex"),
        report(
            "results/tables/{grid}/{table}.html",
            caption="../report/table.rst",
            category="Tables",
            labels={"grid": "{grid}", "table": "{table}"},
        ),
    log:
        "logs/tabulate/{grid}/{table}.log",
    conda:
        "../../envs/tabulate.yaml"
    params:
        table=lambda wildcards: GRIDS[wildcards.grid].file.tables[wildcards.table].model_dump(),
    shell:
        "psld tabulate grid_name={wildcards.grid} table={wildcards.table} > {log} 2>&1"


rule plot:
    input:
        inputs_of_plot,
    output:
        vector="results/figures/{grid}/{plot}.svg",
        picture=report(
            "results/figures/{grid}/{plot}.png",
            caption="../report/plot.rst",
            category="Plots",
            labels=lambda wildcards: {"grid": wildcards.grid, "plot": PLOTS[wildcards.plot]},
        ),
    log:
        "logs/plot/{grid}/{plot}.log",
    conda:
        "../../envs/tabulate.yaml"
    params:
        # What is drawn besides the inputs: the models, whose order gives them their colours, and
        # the paper's numbers.
        models=lambda wildcards: list(GRIDS[wildcards.grid].models),
        paper=papers_of_plot,
    shell:
        "psld plot grid_name={wildcards.grid} plot={wildcards.plot} > {log} 2>&1"


rule gallery:
    input:
        lambda wildcards: (
            f"samples/{wildcards.grid}/{wildcards.model}/"
            f"{GRIDS[wildcards.grid].file.gallery}/00000.h5"
        ),
    output:
        report(
            "results/figures/{grid}/samples/{model}.png",
            caption="../report/gallery.rst",
            category="Samples",
            subcategory="By model",
            labels={"grid": "{grid}", "figure": "{model}"},
        ),
    log:
        "logs/gallery/{grid}/{model}.log",
    conda:
        "../../envs/tabulate.yaml"
    params:
        sampler=lambda wildcards: GRIDS[wildcards.grid].file.gallery,
    shell:
        "psld gallery shard={input} title='{wildcards.model} by {params.sampler}' "
        "output={output} > {log} 2>&1"


rule sheet:
    input:
        shards_of_sheet,
    output:
        report(
            "results/figures/{grid}/{sheet}.png",
            caption="../report/sheet.rst",
            category="Samples",
            subcategory="Side by side",
            labels={"grid": "{grid}", "figure": "{sheet}"},
        ),
    log:
        "logs/sheet/{grid}/{sheet}.log",
    conda:
        "../../envs/tabulate.yaml"
    params:
        rows=lambda wildcards: list(sheets_of(GRIDS[wildcards.grid])[wildcards.sheet]),
    shell:
        "psld sheet grid_name={wildcards.grid} sheet={wildcards.sheet} > {log} 2>&1"


rule figure:
    input:
        shard=lambda wildcards: f"samples/{wildcards.grid}/{cell_of_figure(wildcards)}/00000.h5",
        images=lambda wildcards: [ancient(file) for file in originals_of_figure(wildcards)],
    output:
        report(
            "results/figures/{grid}/{figure}.png",
            caption="../report/figure.rst",
            category="Samples",
            subcategory="Figures of the grid",
            labels={"grid": "{grid}", "figure": "{figure}"},
        ),
    log:
        "logs/figure/{grid}/{figure}.log",
    conda:
        "../../envs/tabulate.yaml"
    params:
        cell=cell_of_figure,
        originals=originals_overrides,
    shell:
        "psld gallery shard={input.shard} title={params.cell:q} {params.originals} "
        "rows=12 output={output} > {log} 2>&1"

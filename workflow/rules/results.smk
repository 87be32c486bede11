# The results of cells, the tables and figures, the results page, and the certificate.


# Reads: the records of a cell's shards, and reference statistics.  Makes: all metrics of the cell, JSON.
rule evaluate:
    input:
        records=lambda w: GRIDS.cell(w).records,
        manifest=lambda w: GRIDS.cell(w).model.manifest,
        guidance=lambda w: GRIDS.cell(w).inputs,
        references=lambda w: GRIDS.cell(w).references,
    output:
        "results/cells/{grid}/{model}/{sampler}.json",
    log:
        "logs/evaluate/{grid}/{model}/{sampler}.log",
    conda:
        "../../envs/psld.yaml"
    params:
        cell="{grid}/{model}/{sampler}",
        record=lambda w: GRIDS.cell(w).evaluation_digest,
    shell:
        "python -m psld evaluate_cell cell={params.cell:q} record={params.record:q} > {log:q} 2>&1"


# Reads: the results of cells.  Makes: a table as Markdown, CSV, LaTeX and HTML.
rule tabulate:
    input:
        lambda w: GRIDS.table_results(w),
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
        "../../envs/psld.yaml"
    params:
        table=lambda w: GRIDS.table_content(w),
    shell:
        "python -m psld tabulate grid_name={wildcards.grid:q} table={wildcards.table:q} > {log:q} 2>&1"


# Reads: results, training histories, or shards.  Makes: a figure as PNG and SVG.
rule figure:
    input:
        shown=lambda w: GRIDS.figure(w).inputs,
        images=lambda w: [ancient(file) for file in GRIDS.figure(w).datasets],
    output:
        vector="results/figures/{grid}/{figure}.svg",
        picture=report(
            "results/figures/{grid}/{figure}.png",
            caption="../report/figure.rst",
            category=lambda w: GRIDS.figure(w).category[0],
            subcategory=lambda w: GRIDS.figure(w).category[1],
            labels=lambda w: {"grid": w.grid, "figure": GRIDS.figure(w).title},
        ),
    log:
        "logs/figure/{grid}/{figure}.log",
    conda:
        "../../envs/psld.yaml"
    params:
        content=lambda w: GRIDS.figure(w).content,
        caption=lambda w: "{0.title}. {0.caption} {0.reading}".format(GRIDS.figure(w)),
    shell:
        "python -m psld figure grid_name={wildcards.grid:q} figure={wildcards.figure:q} > {log:q} 2>&1"


# Reads: the tables and figures of a grid.  Makes: one HTML page with all tables and figures.
rule page:
    input:
        lambda w: GRIDS.page_parts(w),
    output:
        "results/{grid}.html",
    log:
        "logs/page/{grid}.log",
    conda:
        "../../envs/psld.yaml"
    params:
        asked=lambda w: GRIDS.grid(w.grid).file.model_dump(
            include={"title", "question", "claims", "labels"}
        ),
    shell:
        "python -m psld page grid_name={wildcards.grid:q} > {log:q} 2>&1"


# Reads: results, and the features from which they were computed.  Makes: the grid's certificate, a zip.
rule certify:
    input:
        lambda w: GRIDS.grid(w.grid).results,
    output:
        "results/certificates/{grid}.zip",
    log:
        "logs/certify/{grid}.log",
    conda:
        "../../envs/psld.yaml"
    params:
        content=lambda w: digest_of(decisive_content(GRIDS.grid(w.grid))),
    shell:
        "python -m psld certify grid_name={wildcards.grid:q} output={output:q} > {log:q} 2>&1"

# The results of cells, their tables and figures, the page that shows these, and the certificate.


# Reads: the records of a cell's shards, and the references.  Makes: all metrics of the cell, JSON.
rule evaluate:
    input:
        records=lambda w: GRIDS.records_of_cell(w.grid, f"{w.model}/{w.sampler}"),
        manifest=lambda w: GRIDS.model_file(w.grid, w.model, "manifest.json"),
        guidance=lambda w: GRIDS.inputs_of_sampling(w.grid, w.model, w.sampler),
        references=lambda w: GRIDS.references_of_cell(w.grid, f"{w.model}/{w.sampler}"),
    output:
        "results/cells/{grid}/{model}/{sampler}.json",
    log:
        "logs/evaluate/{grid}/{model}/{sampler}.log",
    conda:
        "../../envs/evaluate.yaml"
    params:
        settings=lambda w: GRIDS.sampling_params(w.grid, w.sampler),
        metrics=lambda w: GRIDS.metrics_of_cell(w.grid, f"{w.model}/{w.sampler}"),
        cell="{grid}/{model}/{sampler}",
    shell:
        "python -m psld evaluate cell={params.cell:q} > {log:q} 2>&1"


# Reads: a model and data/DATASET.h5.  Makes: the model's bits per dimension, JSON.
#
# Shards are in the folder of the same name; a killed job loses at most the shard in progress.
rule likelihood:
    input:
        weights=lambda w: ancient(GRIDS.model_file(w.grid, w.model, "weights.safetensors")),
        manifest=lambda w: GRIDS.model_file(w.grid, w.model, "manifest.json"),
        images=lambda w: ancient(GRIDS.grids[w.grid].models[w.model].images),
        digest=lambda w: GRIDS.grids[w.grid].models[w.model].digest,
    output:
        "results/cells/{grid}/{model}/likelihood.json",
    log:
        "logs/likelihood/{grid}/{model}.log",
    wildcard_constraints:
        grid=GRIDS.grids_with_likelihood(),
    conda:
        "../../envs/sample.yaml"
    params:
        settings=lambda w: GRIDS.grids[w.grid].likelihood.model_dump(),
        overrides=lambda w: list(GRIDS.grids[w.grid].file.likelihood),
        folder=subpath(input.manifest, parent=True),
    shell:
        "python -m psld likelihood model={params.folder:q} data={input.images:q} {params.overrides:q} "
        "output={output:q} > {log:q} 2>&1"


# Reads: the results of cells and models.  Makes: a table as Markdown, CSV, LaTeX and HTML.
rule tabulate:
    input:
        lambda w: GRIDS.results_of_tables(w.grid, w.table),
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
        "../../envs/figure.yaml"
    params:
        table=lambda w: GRIDS.params_of_table(w.grid, w.table),
    shell:
        "python -m psld tabulate grid_name={wildcards.grid:q} table={wildcards.table:q} > {log:q} 2>&1"


# Reads: results, histories of trainings, shards, or a model.  Makes: a figure, PNG and SVG.
rule figure:
    input:
        shown=lambda w: GRIDS.inputs_of_figure(w.grid, w.figure),
        images=lambda w: [ancient(file) for file in GRIDS.originals_of_figure(w.grid, w.figure)],
    output:
        vector="results/figures/{grid}/{figure}.svg",
        picture=report(
            "results/figures/{grid}/{figure}.png",
            caption="../report/figure.rst",
            category=lambda w: GRIDS.figures[w.grid][w.figure].category[0],
            subcategory=lambda w: GRIDS.figures[w.grid][w.figure].category[1],
            labels=lambda w: {"grid": w.grid, "figure": GRIDS.figures[w.grid][w.figure].label},
        ),
    log:
        "logs/figure/{grid}/{figure}.log",
    conda:
        "../../envs/figure.yaml"
    params:
        content=lambda w: GRIDS.params_of_figure(w.grid, w.figure),
        caption=lambda w: GRIDS.caption_of_figure(w.grid, w.figure),
        data=lambda w: (GRIDS.originals_of_figure(w.grid, w.figure) or ["null"])[0],
    shell:
        "python -m psld figure grid_name={wildcards.grid:q} figure={wildcards.figure:q} data={params.data:q} > {log:q} 2>&1"


# Reads: the tables and figures of a grid.  Makes: one page with all of them, for reading.
rule page:
    input:
        lambda w: GRIDS.parts_of_page(w.grid),
    output:
        "results/{grid}.html",
    log:
        "logs/page/{grid}.log",
    conda:
        "../../envs/figure.yaml"
    params:
        asked=lambda w: [GRIDS.grids[w.grid].file.title, GRIDS.grids[w.grid].file.question],
    shell:
        "python -m psld page grid_name={wildcards.grid:q} > {log:q} 2>&1"


# Reads: results, with what they were computed from, and plots.  Makes: the grid's certificate, a zip.
rule certify:
    input:
        lambda w: GRIDS.inputs_of_certificate(w.grid),
    output:
        "results/certificates/{grid}.zip",
    log:
        "logs/certify/{grid}.log",
    conda:
        "../../envs/figure.yaml"
    params:
        content=lambda w: GRIDS.digest_of_grid(w.grid),
    shell:
        "python -m psld certify grid_name={wildcards.grid:q} output={output:q} max_mb=null > {log:q} 2>&1"

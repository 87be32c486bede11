# Reads: data/DATASET.h5 and the metric's extractor.  Makes: the statistics of the reference split.


rule reference:
    input:
        images=ancient("data/{dataset}.h5"),
        digest="data/{dataset}.digest",
        extractor=lambda wildcards: extractor_manifest(wildcards.dataset, wildcards.metric),
    output:
        statistics="features/{dataset}/{metric}/reference/statistics.safetensors",
        manifest="features/{dataset}/{metric}/reference/manifest.json",
    log:
        "logs/reference/{dataset}-{metric}.log",
    conda:
        "../../envs/evaluate.yaml"
    params:
        settings=lambda wildcards: METRICS[wildcards.metric],
        extractor=lambda wildcards: extractor_folder(wildcards.dataset, wildcards.metric),
        folder=subpath(output.manifest, parent=True),
    shell:
        "psld reference dataset={wildcards.dataset} metric={wildcards.metric} "
        "data={input.images} extractor={params.extractor} output={params.folder} > {log} 2>&1"

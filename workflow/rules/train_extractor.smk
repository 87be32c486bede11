# Reads: data/DATASET.h5.  Makes: features/DATASET/METRIC, the classifier whose features are compared.


rule train_extractor:
    input:
        images=ancient("data/{dataset}.h5"),
        digest="data/{dataset}.digest",
    output:
        weights="features/{dataset}/{metric}/weights.safetensors",
        manifest="features/{dataset}/{metric}/manifest.json",
    log:
        "logs/train_extractor/{dataset}-{metric}.log",
    conda:
        "../../envs/evaluate.yaml"
    params:
        settings=lambda wildcards: METRICS[wildcards.metric]["extractor"],
        folder=subpath(output.manifest, parent=True),
    shell:
        "psld train_extractor dataset={wildcards.dataset} metric={wildcards.metric} "
        "data={input.images} output={params.folder} > {log} 2>&1"

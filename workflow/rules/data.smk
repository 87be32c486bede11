# Datasets, and the references that samples are compared with.
#
# A digest identifies a dataset's content. Later stages depend on it, not on the modification time
# of the large file, so preparing identical data again reruns nothing.


# Reads: the dataset's source (downloads, or a package).  Makes: data/DATASET.h5, record and digest.
rule prepare:
    output:
        images="data/{dataset}.h5",
        record="data/{dataset}.json",
        digest="data/{dataset}.digest",
    log:
        "logs/prepare/{dataset}.log",
    conda:
        "../../envs/prepare.yaml"
    params:
        settings=lambda w: GRIDS.datasets[w.dataset],
    shell:
        "python -m psld prepare dataset={wildcards.dataset} output={output.images} > {log} 2>&1"


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
        settings=lambda w: GRIDS.metrics[w.metric]["extractor"],
        folder=subpath(output.manifest, parent=True),
    shell:
        "python -m psld train_extractor dataset={wildcards.dataset} metric={wildcards.metric} "
        "data={input.images} output={params.folder} > {log} 2>&1"


# Reads: data/DATASET.h5 and the metric's extractor.  Makes: the statistics of the reference split.
rule reference:
    input:
        images=ancient("data/{dataset}.h5"),
        digest="data/{dataset}.digest",
        extractor=lambda w: (
            f"{folder}/manifest.json"
            if (folder := GRIDS.extractor_folder(w.dataset, w.metric))
            else []
        ),
    output:
        statistics="features/{dataset}/{metric}/reference/statistics.safetensors",
        manifest="features/{dataset}/{metric}/reference/manifest.json",
    log:
        "logs/reference/{dataset}-{metric}.log",
    conda:
        "../../envs/evaluate.yaml"
    params:
        settings=lambda w: GRIDS.metrics[w.metric],
        extractor=lambda w: GRIDS.extractor_folder(w.dataset, w.metric) or "null",
        folder=subpath(output.manifest, parent=True),
    shell:
        "python -m psld reference dataset={wildcards.dataset} metric={wildcards.metric} "
        "data={input.images} extractor={params.extractor} output={params.folder} > {log} 2>&1"

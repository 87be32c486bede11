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
        "python -m psld prepare dataset={wildcards.dataset:q} output={output.images:q} > {log:q} 2>&1"


# Reads: data/DATASET.h5.  Makes: features/DATASET/FEATURES, the classifier whose features are compared.
rule train_extractor:
    input:
        images=ancient("data/{dataset}.h5"),
        digest="data/{dataset}.digest",
    output:
        weights="features/{dataset}/{features}/weights.safetensors",
        manifest="features/{dataset}/{features}/manifest.json",
    log:
        "logs/train_extractor/{dataset}-{features}.log",
    conda:
        "../../envs/evaluate.yaml"
    params:
        settings=lambda w: GRIDS.features[w.features]["extractor"],
        folder=subpath(output.manifest, parent=True),
    shell:
        "python -m psld train_extractor dataset={wildcards.dataset:q} metric={wildcards.features:q} "
        "data={input.images:q} output={params.folder:q} > {log:q} 2>&1"


# Reads: data/DATASET.h5 and the metric's extractor.  Makes: the features of its images and of noise.
rule reference:
    input:
        images=ancient("data/{dataset}.h5"),
        digest="data/{dataset}.digest",
        extractor=lambda w: (
            f"{folder}/manifest.json"
            if (folder := GRIDS.extractor_folder(w.dataset, w.features))
            else []
        ),
    output:
        features="features/{dataset}/{features}/reference/features.safetensors",
        manifest="features/{dataset}/{features}/reference/manifest.json",
    log:
        "logs/reference/{dataset}-{features}.log",
    conda:
        "../../envs/evaluate.yaml"
    params:
        settings=lambda w: GRIDS.features[w.features],
        extractor=lambda w: GRIDS.extractor_folder(w.dataset, w.features) or "null",
        folder=subpath(output.manifest, parent=True),
    shell:
        "python -m psld reference dataset={wildcards.dataset:q} metric={wildcards.features:q} "
        "data={input.images:q} extractor={params.extractor:q} output={params.folder:q} > {log:q} 2>&1"

# Datasets, and the reference statistics that samples are compared with.
#
# A digest identifies a dataset's content. Later stages depend on the digest, not on the modification
# time of the large file, so preparing identical data again reruns nothing.
#
# If several grids share a record, the command line of a job names one of these grids in a parameter.
# This parameter is a function of `output`, and Snakemake does not rerun a job if such a parameter
# changes. So a new grid with the same dataset reruns nothing.


# Reads: the dataset's source (downloads, a package, or another prepared dataset).
# Makes: data/DATASET.h5, record and digest.
rule prepare:
    input:
        reads=lambda w: GRIDS.dataset(w).reads,
    output:
        images="data/{dataset}.h5",
        record="data/{dataset}.json",
        digest="data/{dataset}.digest",
    log:
        "logs/prepare/{dataset}.log",
    conda:
        "../../envs/psld.yaml"
    params:
        dataset=lambda w, output: GRIDS.word("datasets", w.dataset),
        record=lambda w: GRIDS.dataset(w).job.digest,
    shell:
        "python -m psld prepare dataset={params.dataset:q} record={params.record:q} > {log:q} 2>&1"


# Reads: data/DATASET.h5.  Makes: features/DATASET/FEATURES, the classifier that extracts the features.
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
        "../../envs/psld.yaml"
    params:
        features=lambda w, output: GRIDS.word("features", f"{w.dataset}/{w.features}"),
        record=lambda w: GRIDS.reference(w).extractor_job.digest,
    shell:
        "python -m psld train_extractor features={params.features:q} record={params.record:q} > {log:q} 2>&1"


# Reads: data/DATASET.h5 and the metric's extractor.  Makes: the features of the dataset's images and of noise.
rule reference:
    input:
        images=ancient("data/{dataset}.h5"),
        digest="data/{dataset}.digest",
        extractor=lambda w: GRIDS.reference(w).extractor_manifests,
    output:
        features="features/{dataset}/{features}/reference/features.safetensors",
        manifest="features/{dataset}/{features}/reference/manifest.json",
    log:
        "logs/reference/{dataset}-{features}.log",
    conda:
        "../../envs/psld.yaml"
    params:
        features=lambda w, output: GRIDS.word("features", f"{w.dataset}/{w.features}"),
        record=lambda w: GRIDS.reference(w).reference_job.digest,
    shell:
        "python -m psld reference features={params.features:q} record={params.record:q} > {log:q} 2>&1"

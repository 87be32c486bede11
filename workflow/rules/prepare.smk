# Reads: the dataset's source (downloads, or a package).  Makes: data/DATASET.h5 and its record.
#
# The record is a small pure function of the pixels. Later stages depend on it, not on the large
# file, so preparing identical data again reruns nothing.


rule prepare:
    output:
        images="data/{dataset}.h5",
        record="data/{dataset}.json",
    params:
        settings=lambda wildcards: DATASETS[wildcards.dataset],
    log:
        "logs/prepare/{dataset}.log",
    conda:
        "../../envs/prepare.yaml"
    shell:
        "python -m psld.prepare dataset={wildcards.dataset} output={output.images} > {log} 2>&1"

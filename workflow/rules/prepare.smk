# Reads: the dataset's source (downloads, or a package).  Makes: data/DATASET.h5, record and digest.
#
# The digest names the content. Later stages depend on it, not on the large file's modification
# time, so preparing identical data again reruns nothing.


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
        settings=lambda wildcards: DATASETS[wildcards.dataset],
    shell:
        "psld prepare dataset={wildcards.dataset} output={output.images} > {log} 2>&1"

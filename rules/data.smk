"""Datasets.

Needs: the dataset's spec and its files; for tokens, the base's tokenizer.
Makes: results/data/{dataset}/, the normalised rows; results/tokens/{base}/{dataset},max_length={n}/, their token ids.
Steps: read any known shape -> normalise -> split by content hash -> tokenise once for each base and length.
"""


rule data:
    """Read, normalise and split a dataset; needs the internet for the hub."""
    input:
        spec="results/data/{dataset}/spec.json",
        sources=data_sources,
    output:
        train="results/data/{dataset}/train.parquet",
        validation="results/data/{dataset}/validation.parquet",
        report="results/data/{dataset}/report.json",
    log:
        "results/logs/data/{dataset}.log",
    conda:
        "../envs/posttrain.yaml"
    params:
        output=subpath(output.train, parent=True),
    shell:
        """
        python "$POSTTRAIN"/prepare_data.py --spec {input.spec:q} --output {params.output:q} --log {log:q}
        """


rule tokens:
    """Tokenise a dataset with a base's chat template, and mark what is trained."""
    input:
        train="results/data/{dataset}/train.parquet",
        validation="results/data/{dataset}/validation.parquet",
        report="results/data/{dataset}/report.json",
        model=ancient("results/bases/{base}/model"),
        manifest="results/bases/{base}/base.json",
    output:
        train="results/tokens/{base}/{dataset},max_length={max_length}/train.parquet",
        validation="results/tokens/{base}/{dataset},max_length={max_length}/validation.parquet",
        report="results/tokens/{base}/{dataset},max_length={max_length}/report.json",
    log:
        "results/logs/tokens/{base}/{dataset},max_length={max_length}.log",
    conda:
        "../envs/posttrain.yaml"
    params:
        version=VERSIONS["tokens"],
        data=subpath(input.train, parent=True),
        output=subpath(output.train, parent=True),
    shell:
        """
        python "$POSTTRAIN"/tokenize_data.py --data {params.data:q} --model {input.model:q} \
            --max-length {wildcards.max_length} --output {params.output:q} --log {log:q}
        """


localrules:
    data,

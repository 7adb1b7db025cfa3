"""Datasets.

Needs: the dataset's spec and its files; for tokens, the base's tokenizer.
Makes: results/data/{dataset}/, the normalised rows; results/tokens/{base}/{dataset},max_length={n}/, their token ids.
Steps: read any known shape -> normalise -> split by content hash (or select by a reward model's margin) -> tokenise once
for each base and length.
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
    wildcard_constraints:
        dataset=PROJECT.datasets_pattern(selected=False),
    conda:
        "../envs/posttrain.yaml"
    params:
        output=subpath(output.train, parent=True),
    shell:
        """
        python "$POSTTRAIN"/prepare_data.py --spec {input.spec:q} --output {params.output:q} --log {log:q}
        """


rule select:
    """Keep the part of a preference dataset that a reward model finds easy, or the part that it finds hard."""
    input:
        spec="results/data/{dataset}/spec.json",
        rows=selected_rows,
        tokens=selected_tokens_files,
        model=ancient(selector_model),
        manifest=selector_manifest,
    output:
        train="results/data/{dataset}/train.parquet",
        validation="results/data/{dataset}/validation.parquet",
        report="results/data/{dataset}/report.json",
    log:
        "results/logs/select/{dataset}.log",
    wildcard_constraints:
        dataset=PROJECT.datasets_pattern(selected=True),
    conda:
        "../envs/posttrain.yaml"
    threads: workflow.cores
    resources:
        gpu=1,
    params:
        rows=selected_folder,
        tokens=selected_tokens,
        output=subpath(output.train, parent=True),
    shell:
        """
        python "$POSTTRAIN"/select_data.py --spec {input.spec:q} --model {input.model:q} --rows {params.rows:q} \
            --tokens {params.tokens:q} --output {params.output:q} --log {log:q}
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

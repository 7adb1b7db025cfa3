"""Datasets.

Needs: the dataset's spec and its files; for tokens, the base's tokenizer.
Makes: results/data/{dataset}/, the normalised rows, what was left out and a report for people; results/tokens/{base}/
{dataset},max_length={n}/, their token ids.
Steps: read any known format -> normalise -> drop faults and duplicates -> split by content hash (or mix datasets, or select
by a reward model's margin) -> look for the rows in held-out ones -> tokenise once for each base and length.
"""


rule data:
    """Read, normalise and split a dataset. From the hub it is data_online, which needs the internet."""
    input:
        spec="results/data/{dataset}/spec.json",
        sources=data_sources,
    output:
        train="results/data/{dataset}/train.parquet",
        validation="results/data/{dataset}/validation.parquet",
        dropped="results/data/{dataset}/dropped.jsonl",
        summary="results/data/{dataset}/data.json",
    log:
        "results/logs/data/{dataset}.log",
    wildcard_constraints:
        dataset=PROJECT.datasets_pattern("data"),
    conda:
        "../envs/posttrain.yaml"
    threads: workflow.cores
    resources:
        mem_mb=job_memory,
        runtime=job_minutes,
    params:
        output=subpath(output.train, parent=True),
    shell:
        """
        python "$POSTTRAIN"/prepare_data.py --spec {input.spec:q} --cores {threads} --output {params.output:q} --log {log:q}
        """


use rule data as data_online with:
    wildcard_constraints:
        dataset=PROJECT.datasets_pattern("online"),


rule mix:
    """Mix the rows of several datasets."""
    input:
        spec="results/data/{dataset}/spec.json",
        parts=mixed_rows,
    output:
        train="results/data/{dataset}/train.parquet",
        validation="results/data/{dataset}/validation.parquet",
        dropped="results/data/{dataset}/dropped.jsonl",
        summary="results/data/{dataset}/data.json",
    log:
        "results/logs/mix/{dataset}.log",
    wildcard_constraints:
        dataset=PROJECT.datasets_pattern("mix"),
    conda:
        "../envs/posttrain.yaml"
    resources:
        mem_mb=job_memory,
        runtime=job_minutes,
    params:
        parts=mixed_folders,
        output=subpath(output.train, parent=True),
    shell:
        """
        python "$POSTTRAIN"/mix_data.py --spec {input.spec:q} --parts {params.parts:q} --output {params.output:q} --log {log:q}
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
        dropped="results/data/{dataset}/dropped.jsonl",
        summary="results/data/{dataset}/data.json",
    log:
        "results/logs/select/{dataset}.log",
    wildcard_constraints:
        dataset=PROJECT.datasets_pattern("select"),
    conda:
        "../envs/posttrain.yaml"
    threads: workflow.cores
    resources:
        gpu=job_gpus,
        mem_mb=job_memory,
        runtime=job_minutes,
    params:
        rows=rows_folder,
        tokens=tokens_folder,
        output=subpath(output.train, parent=True),
    shell:
        """
        python "$POSTTRAIN"/select_data.py --spec {input.spec:q} --model {input.model:q} --rows {params.rows:q} \
            --tokens {params.tokens:q} --output {params.output:q} --log {log:q}
        """


rule generate:
    """Take a model's completions of a dataset's rows in place of their own (Kim and Rush 2016); held-out rows keep theirs."""
    input:
        spec="results/data/{dataset}/spec.json",
        rows=generated_rows,
        answers=generated_answers,
    output:
        train="results/data/{dataset}/train.parquet",
        validation="results/data/{dataset}/validation.parquet",
        dropped="results/data/{dataset}/dropped.jsonl",
        summary="results/data/{dataset}/data.json",
    log:
        "results/logs/generate/{dataset}.log",
    wildcard_constraints:
        dataset=PROJECT.datasets_pattern("generate"),
    conda:
        "../envs/posttrain.yaml"
    resources:
        mem_mb=job_memory,
        runtime=job_minutes,
    params:
        rows=rows_folder,
        output=subpath(output.train, parent=True),
    shell:
        """
        python "$POSTTRAIN"/generate_data.py --spec {input.spec:q} --rows {params.rows:q} --answers {input.answers:q} \
            --output {params.output:q} --log {log:q}
        """


rule overlap:
    """Look for a dataset's training rows in its held-out rows and in those that models are measured on."""
    input:
        train="results/data/{dataset}/train.parquet",
        held_out=held_out_rows,
    output:
        overlap="results/data/{dataset}/overlap.json",
    log:
        "results/logs/overlap/{dataset}.log",
    priority: 1  # a refusal comes before the evaluation of a base
    conda:
        "../envs/posttrain.yaml"
    resources:
        mem_mb=job_memory,
        runtime=job_minutes,
    params:
        data=subpath(input.train, parent=True),
        held_out=held_out_folders,
    shell:
        """
        python "$POSTTRAIN"/measure_overlap.py --data {params.data:q} --held-out {params.held_out:q} \
            --output {output.overlap:q} --log {log:q}
        """


rule data_report:
    """Tell people what a dataset is: counts, lengths, languages, overlaps, and what each base's tokenizer makes of it."""
    input:
        train="results/data/{dataset}/train.parquet",
        validation="results/data/{dataset}/validation.parquet",
        summary="results/data/{dataset}/data.json",
        overlap="results/data/{dataset}/overlap.json",
        context="results/data/{dataset}/context.json",
        tokens=dataset_tokens_reports,
        dropped=dropped_rows,
    output:
        report="results/data/{dataset}/report.json",
        page=report("results/data/{dataset}/report.html", caption="captions/data.rst", category="Data"),
    log:
        "results/logs/data_report/{dataset}.log",
    conda:
        "../envs/posttrain.yaml"
    resources:
        mem_mb=job_memory,
        runtime=job_minutes,
    params:
        output=subpath(output.report, parent=True),
        tokens=tokens_folders,
    shell:
        """
        python "$POSTTRAIN"/report_data.py --data {params.output:q} --overlap {input.overlap:q} --tokens {params.tokens:q} \
            --context {input.context:q} --output {params.output:q} --log {log:q}
        """


rule tokens:
    """Tokenise a dataset with a base's chat template, and mark what is trained."""
    input:
        train="results/data/{dataset}/train.parquet",
        validation="results/data/{dataset}/validation.parquet",
        summary="results/data/{dataset}/data.json",
        model=ancient("results/bases/{base}/model"),
        manifest="results/bases/{base}/base.json",
    output:
        train="results/tokens/{base}/{dataset},max_length={max_length}{trained}/train.parquet",
        validation="results/tokens/{base}/{dataset},max_length={max_length}{trained}/validation.parquet",
        report="results/tokens/{base}/{dataset},max_length={max_length}{trained}/report.json",
    log:
        "results/logs/tokens/{base}/{dataset},max_length={max_length}{trained}.log",
    priority: 1  # a refusal comes before the evaluation of a base
    conda:
        "../envs/posttrain.yaml"
    threads: workflow.cores
    resources:
        mem_mb=job_memory,
        runtime=job_minutes,
    params:
        version=VERSIONS["tokens"],
        data=subpath(input.train, parent=True),
        output=subpath(output.train, parent=True),
        turns=trained_turns,
        thoughts=trained_thoughts,
    shell:
        """
        python "$POSTTRAIN"/tokenize_data.py --data {params.data:q} --model {input.model:q} \
            --max-length {wildcards.max_length} --assistant-turns {params.turns:q} --train-thoughts {params.thoughts:q} \
            --cores {threads} --output {params.output:q} --log {log:q}
        """


localrules:
    data_online,


if STORAGE:  # which has nothing of the user's files; they are on the machine of the command

    localrules:
        data,

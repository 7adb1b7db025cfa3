"""Exports.

Needs: the trained model in float32 (an adapter: what training produced), and held-out rows.
Makes: results/{run}/export/{kind}/, files that a program loads; reference.parquet, what the unquantised model says on held-out rows;
{kind}.json, the proof of an export by the program that runs it; table.html, the proofs side by side.
Steps: write an export -> load it from disk in a process of its own -> the same prompts -> compare with the reference, or the rule
fails where a limit of the configuration is missed.
"""


rule export:
    """Write a trained model in the form in which a program loads it."""
    input:
        spec="results/{run}/spec.json",
        model=ancient(own_model),
        manifest=own_manifest,
        trained=ancient("results/{run}/trained"),
        parent=ancient(adapters_base),
        before=adapters_manifest,
        stages=ancient(adapter_stages),
        specs=adapter_specs,
        rows=ancient(system_prompt_rows),
    output:
        directory("results/{run}/export/{kind}"),
    log:
        "results/logs/export/{run}/{kind}.log",
    conda:
        "../envs/posttrain.yaml"
    threads: workflow.cores
    resources:
        mem_mb=job_memory,
        runtime=job_minutes,
    params:
        version=VERSIONS["export"],
    shell:
        """
        exec python "$POSTTRAIN"/export_model.py --spec {input.spec:q} --kind {wildcards.kind:q} \
            --model {input.model:q} --manifest {input.manifest:q} --trained {input.trained:q} \
            --stages {input.stages:q} --parent {input.parent:q} --before {input.before:q} \
            --rows {input.rows:q} --output {output:q} --log {log:q}
        """


rule export_reference:
    """Ask the unquantised model what the proofs of all its exports compare with."""
    input:
        model=ancient(own_model),
        manifest=own_manifest,
        rows=export_rows,
        files=export_files,
    output:
        "results/{run}/export/reference.parquet",
    log:
        "results/logs/export_reference/{run}.log",
    conda:
        "../envs/posttrain.yaml"
    threads: workflow.cores
    resources:
        gpu=job_gpus,
        mem_mb=job_memory,
        runtime=job_minutes,
    params:
        asked=export_reference_json,
        staged=staged_export_reference,
        data=eval_folders,
    shell:
        """
        exec python "$POSTTRAIN"/ask_reference.py --spec {params.staged:q} --model {input.model:q} \
            --manifest {input.manifest:q} --data {params.data:q} --output {output:q} --log {log:q}
        """


rule prove_export:
    """Load an export by the program that runs it, and compare what it says with the unquantised model."""
    input:
        spec="results/{run}/export/spec.json",
        export="results/{run}/export/{kind}",
        reference="results/{run}/export/reference.parquet",
        model=ancient(own_model),
        manifest=own_manifest,
        parent=ancient(adapters_base),
        before=adapters_manifest,
        files=export_files,
    output:
        "results/{run}/export/{kind}.json",
    log:
        "results/logs/prove_export/{run}/{kind}.log",
    conda:
        "../envs/posttrain.yaml"
    threads: workflow.cores
    resources:
        gpu=job_gpus,
        mem_mb=job_memory,
        runtime=job_minutes,
    shell:
        """
        exec python "$POSTTRAIN"/prove_export.py --spec {input.spec:q} --kind {wildcards.kind:q} \
            --export {input.export:q} --reference {input.reference:q} --model {input.model:q} \
            --manifest {input.manifest:q} --parent {input.parent:q} --before {input.before:q} --output {output:q} --log {log:q}
        """


rule export_table:
    """Lay out the proofs of the configured exports, and of others that are there, by size, quality and speed."""
    input:
        proofs=export_proofs,
        model=ancient(own_model),
    output:
        report("results/{run}/export/table.html", caption="captions/export.rst", category="Exports"),
    log:
        "results/logs/export_table/{run}.log",
    conda:
        "../envs/posttrain.yaml"
    resources:
        mem_mb=job_memory,
        runtime=job_minutes,
    shell:
        """
        exec python "$POSTTRAIN"/make_export_table.py --proofs {input.proofs:q} --model {input.model:q} \
            --output {output:q} --log {log:q}
        """

"""Merging.

Needs: what training produced and the model it started from.
Makes: results/{run}/merged/, the trained model in float32, on which children train and which is evaluated; results/{run}/model/,
which others load, in `save_precision`; merge.json, the proof that both are the model that was trained; provenance.
Steps: parent and parent + adapter -> logits -> merge -> save -> load again -> the same logits, or the rule fails.
"""


rule merge:
    """Merge what was trained into the model that others load, and prove it."""
    input:
        spec="results/{run}/spec.json",
        preflight=ancient("results/{run}/preflight.json"),
        trained="results/{run}/trained",
        summary="results/{run}/train.json",
        tokens=run_tokens_files,
        model=ancient(parent_model),
        shipped=ancient(parent_shipped),
        manifest=parent_manifest,
        recorded=merge_recorded,
    output:
        merged=directory("results/{run}/merged"),
        model=directory("results/{run}/model"),
        proof="results/{run}/merge.json",
        provenance="results/{run}/provenance.json",
    log:
        "results/logs/merge/{run}.log",
    conda:
        "../envs/posttrain.yaml"
    threads: workflow.cores
    resources:
        gpu=job_gpus,
        mem_mb=job_memory,
        runtime=job_minutes,
    params:
        tokens=tokens_folder,
    shell:
        """
        exec python "$POSTTRAIN"/merge_model.py --spec {input.spec:q} --parent {input.model:q} \
            --shipped {input.shipped:q} --manifest {input.manifest:q} --tokens {params.tokens:q} \
            --preflight {input.preflight:q} --log {log:q}
        """

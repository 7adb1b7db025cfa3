"""Merging.

Needs: what training produced and the model it started from.
Makes: results/{run}/model/, which others load; merge.json, the proof that it is the model that was trained; provenance.
Steps: parent + adapter -> logits -> merge -> save -> load again -> the same logits, or the rule fails.
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
        manifest=parent_manifest,
    output:
        model=directory("results/{run}/model"),
        proof="results/{run}/merge.json",
        provenance="results/{run}/provenance.json",
    log:
        "results/logs/merge/{run}.log",
    benchmark:
        "results/logs/merge/{run}.tsv"
    conda:
        "../envs/posttrain.yaml"
    threads: workflow.cores
    resources:
        gpu=1,
    params:
        tokens=run_tokens,
    shell:
        """
        exec python "$POSTTRAIN"/merge_model.py --spec {input.spec:q} --parent {input.model:q} \
            --manifest {input.manifest:q} --tokens {params.tokens:q} \
            --preflight {input.preflight:q} --log {log:q}
        """

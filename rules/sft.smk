"""Supervised fine-tuning.

Needs: the run's spec, its parent's model, its tokens.
Makes: results/{run}/trained/ (an adapter, or all weights), train.jsonl and train.json.
Steps: load the parent -> train with TRL's SFTTrainer, from the last checkpoint if there is one -> save.
"""


rule sft:
    """Train a model on what the assistant says."""
    input:
        spec="results/{run}/spec.json",
        preflight=ancient("results/{run}/preflight.json"),
        tokens=run_tokens_files,
        held_out=run_held_out,
        metric=run_metric,
        model=ancient(parent_model),
        manifest=parent_manifest,
    output:
        trained=directory("results/{run}/trained"),
        steps="results/{run}/train.jsonl",
        summary="results/{run}/train.json",
    log:
        "results/logs/sft/{run}.log",
    benchmark:
        "results/logs/sft/{run}.tsv"
    wildcard_constraints:
        run=CANONICAL + PROJECT.pattern("sft"),
    conda:
        "../envs/posttrain.yaml"
    threads: workflow.cores
    resources:
        gpu=1,
    params:
        script="train_sft.py",
        tokens=run_tokens,
    shell:
        """
        exec python "$POSTTRAIN"/{params.script} --spec {input.spec:q} --parent {input.model:q} \
            --manifest {input.manifest:q} --tokens {params.tokens:q} --held-out {input.held_out:q} --log {log:q}
        """

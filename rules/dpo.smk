"""Direct preference optimisation.

Needs: the run's spec, its parent's model, its tokens, and the parent's log-probabilities of them.
Makes: results/{run}/trained/ (an adapter, or all weights), train.jsonl and train.json.
Steps: score every answer with the parent, once for all runs that share it -> train with TRL's DPOTrainer -> save.
"""


rule logprobs:
    """Score a preference dataset with a model that will be the reference of DPO runs."""
    input:
        tokens=logprobs_tokens_files,
        model=ancient(own_model),
        manifest=own_manifest,
    output:
        "results/{run}/logprobs/{dataset},max_length={max_length}{form}.parquet",
    log:
        "results/logs/logprobs/{run}/{dataset},max_length={max_length}{form}.log",
    wildcard_constraints:
        form="(,nf4|,whole)?(,fp32|,bf16)?",
    conda:
        "../envs/posttrain.yaml"
    threads: workflow.cores
    resources:
        gpu=job_gpus,
        mem_mb=job_memory,
        runtime=job_minutes,
    params:
        version=VERSIONS["logprobs"],
        tokens=tokens_folder,
    shell:
        """
        exec python "$POSTTRAIN"/compute_logprobs.py --model {input.model:q} --tokens {params.tokens:q} \
            --output {output:q} --log {log:q}
        """


rule dpo:
    """Train a model to prefer the chosen answer over the rejected one."""
    input:
        spec="results/{run}/spec.json",
        preflight=ancient("results/{run}/preflight.json"),
        tokens=run_tokens_files,
        held_out=run_held_out,
        metric=run_metric,
        logprobs=parent_logprobs,
        model=ancient(parent_model),
        manifest=parent_manifest,
    output:
        trained=directory("results/{run}/trained"),
        steps="results/{run}/train.jsonl",
        summary="results/{run}/train.json",
    log:
        "results/logs/dpo/{run}.log",
    wildcard_constraints:
        run=CANONICAL + PROJECT.pattern("dpo"),
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
        exec python "$POSTTRAIN"/train_dpo.py --spec {input.spec:q} --parent {input.model:q} \
            --manifest {input.manifest:q} --tokens {params.tokens:q} --logprobs {input.logprobs:q} \
            --held-out {input.held_out:q} --log {log:q}
        """

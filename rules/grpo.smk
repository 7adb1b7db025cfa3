"""Group-relative and leave-one-out policy optimisation.

Needs: the run's spec, its parent's model, its dataset's prompts, and what gives the reward.
Makes: results/{run}/trained/ (an adapter, or all weights), train.jsonl and train.json.
Steps: sample several answers to each prompt -> reward -> train with TRL's GRPOTrainer or RLOOTrainer -> save.
"""


rule grpo:
    """Train a model on its own answers, each measured against the others to the same prompt."""
    input:
        spec="results/{run}/spec.json",
        rows=run_rows,
        judges=judge_manifests,
        judge_models=ancient(judge_models),
        function=reward_function,
        model=ancient(parent_model),
        manifest=parent_manifest,
    output:
        trained=directory("results/{run}/trained"),
        steps="results/{run}/train.jsonl",
        summary="results/{run}/train.json",
    log:
        "results/logs/grpo/{run}.log",
    benchmark:
        "results/logs/grpo/{run}.tsv"
    wildcard_constraints:
        run=CANONICAL + PROJECT.pattern("grpo"),
    conda:
        "../envs/posttrain.yaml"
    threads: workflow.cores
    resources:
        gpu=1,
    params:
        data=run_rows_folder,
    shell:
        """
        exec python "$POSTTRAIN"/train_grpo.py --spec {input.spec:q} --parent {input.model:q} \
            --manifest {input.manifest:q} --data {params.data:q} --log {log:q}
        """


use rule grpo as rloo with:
    log:
        "results/logs/rloo/{run}.log",
    benchmark:
        "results/logs/rloo/{run}.tsv"
    wildcard_constraints:
        run=CANONICAL + PROJECT.pattern("rloo"),

"""Proximal policy optimisation: RLHF with a reward model, RTO with a DPO run's implicit reward, or a rule.

Needs: the run's spec, its parent's model, its dataset's prompts, and what gives the reward.
Makes: results/{run}/trained/ (an adapter, or all weights), train.jsonl and train.json.
Steps: sample answers -> reward, KL to the parent, values -> advantages -> several epochs of clipped steps -> save.
"""


rule ppo:
    """Train a model on its own answers, for what a reward model, a DPO run or a rule gives them."""
    input:
        spec="results/{run}/spec.json",
        preflight=ancient("results/{run}/preflight.json"),
        rows=run_rows,
        held_out=run_held_out,
        metric=run_metric,
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
        "results/logs/ppo/{run}.log",
    benchmark:
        "results/logs/ppo/{run}.tsv"
    wildcard_constraints:
        run=CANONICAL + PROJECT.pattern("ppo"),
    conda:
        "../envs/posttrain.yaml"
    threads: workflow.cores
    resources:
        gpu=1,
    params:
        script="train_ppo.py",
        data=run_rows_folder,
    shell:
        """
        exec python "$POSTTRAIN"/{params.script} --spec {input.spec:q} --parent {input.model:q} \
            --manifest {input.manifest:q} --data {params.data:q} --held-out {input.held_out:q} --log {log:q}
        """

"""Training: one rule an objective, named for it, so that the list of jobs reads like the guide. dpo and distill, which need
more, are in dpo.smk and distill.smk.

Needs: the run's spec, its parent's model, and its tokens; or, on-policy, its dataset's prompts and what gives the reward.
Makes: results/{run}/trained/ (an adapter, or all weights), train.jsonl and train.json.
Steps: load the parent -> train with TRL's trainer or PPO's, from the last checkpoint if there is one -> save.

Without profiles/default a finished stage is built again if the text of its command changes, so the formatter is off there.
"""

for objective in [
    name for name, row in OBJECTIVES.items() if not (row.on_policy or row.teacher) and row.reference != "logprobs"
]:

    rule:
        name:
            objective
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
            f"results/logs/{objective}/{{run}}.log",
        wildcard_constraints:
            run=CANONICAL + PROJECT.pattern(objective),
        conda:
            "../envs/posttrain.yaml"
        threads: workflow.cores
        resources:
            gpu=job_gpus,
            mem_mb=job_memory,
            runtime=job_minutes,
        params:
            script=f"train_{OBJECTIVES[objective].script or objective}.py",
            tokens=tokens_folder,
        # fmt: off
        shell:
            """
        exec python "$POSTTRAIN"/{params.script} --spec {input.spec:q} --parent {input.model:q} \
            --manifest {input.manifest:q} --tokens {params.tokens:q} --held-out {input.held_out:q} --log {log:q}
        """
        # fmt: on


for objective in [name for name, row in OBJECTIVES.items() if row.on_policy]:

    rule:
        name:
            objective
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
            f"results/logs/{objective}/{{run}}.log",
        wildcard_constraints:
            run=CANONICAL + PROJECT.pattern(objective),
        conda:
            "../envs/posttrain.yaml"
        threads: workflow.cores
        resources:
            gpu=job_gpus,
            mem_mb=job_memory,
            runtime=job_minutes,
        params:
            script=f"train_{OBJECTIVES[objective].script or objective}.py",
            data=rows_folder,
            reward_models=folders_of_judges,
        # fmt: off
        shell:
            """
        exec python "$POSTTRAIN"/{params.script} --spec {input.spec:q} --parent {input.model:q} \
            --manifest {input.manifest:q} --data {params.data:q} --reward-models {params.reward_models:q} \
            --held-out {input.held_out:q} --log {log:q}
        """
        # fmt: on

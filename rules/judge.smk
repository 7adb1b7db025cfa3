"""A judge of answers.

Needs: what a model was measured to be, its answers and those of the models that it is judged against; the model that judges, or an
endpoint; what people rated.
Makes: results/{run}/eval.json, the measurements with the win rates; judge/verdicts.jsonl, each pair with its verdicts.
Steps: pairs of answers -> both orders to the judge, as far as they were not judged before -> win rate, position bias, agreement.
"""

if JUDGED:

    rule judge:
        """Have a judge compare a model's answers with another's."""
        input:
            spec="results/{run}/judge/spec.json",
            measured="results/{run}/eval/measured.json",
            examples="results/{run}/eval/examples.parquet",
            others=judged_others,
            judges=suite_judges,
            instructions=judge_instructions,
            ratings=judged_ratings,
        output:
            verdicts="results/{run}/judge/verdicts.jsonl",  # first, as it says whose job this is
            metrics="results/{run}/eval.json",
        log:
            "results/logs/judge/{run}.log",
        conda:
            "../envs/posttrain.yaml"
        threads: workflow.cores
        resources:
            gpu=job_gpus,
            mem_mb=job_memory,
            runtime=job_minutes,
        params:
            judges=folders_of_judges,
            settings=staged_judge_settings,
        shell:
            """
            exec python "$POSTTRAIN"/judge_answers.py --spec {input.spec:q} --settings {params.settings:q} \
                --measured {input.measured:q} --examples {input.examples:q} --others {input.others:q} --judges {params.judges:q} \
                --ratings {input.ratings:q} --verdicts {output.verdicts:q} --output {output.metrics:q} --log {log:q}
            """


if JUDGED and judging.only_endpoints(PROJECT.config):  # the network is where the command runs

    localrules:
        judge,

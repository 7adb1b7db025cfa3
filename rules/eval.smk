"""Evaluation.

Needs: a model, every evaluation dataset's tokens, and the examples of the model's parent and base.
Makes: results/{run}/eval.json, metrics with intervals and verdicts; eval/examples.parquet, each example's scores. Where a suite has a
judge, eval/measured.json instead of eval.json, which the judge's job makes of it.
Steps: score held-out answers -> generate -> the configured suites -> intervals by bootstrap -> compare on the same examples. A
base is evaluated alike.
"""


rule eval:
    """Measure a model on held-out rows, and compare it with its parent and its base."""
    input:
        spec="results/{run}/eval/spec.json",
        model=ancient(own_model),
        shipped=ancient(own_shipped),
        manifest=own_manifest,
        tokens=eval_tokens,
        rows=eval_rows,
        others=eval_others,
        judges=eval_judges,
        files=eval_files,
        overruled=eval_overruled,
    output:
        metrics=EVALUATED,
        examples="results/{run}/eval/examples.parquet",
    log:
        "results/logs/eval/{run}.log",
    conda:
        "../envs/posttrain.yaml"
    threads: workflow.cores
    resources:
        gpu=job_gpus,
        mem_mb=job_memory,
        runtime=job_minutes,
    params:
        tokens=eval_tokens_folder,
        data=eval_folders,
        reward_models=folders_of_judges,
    shell:
        """
        exec python "$POSTTRAIN"/evaluate_model.py --spec {input.spec:q} --model {input.model:q} \
            --shipped {input.shipped:q} --manifest {input.manifest:q} --tokens {params.tokens:q} --data {params.data:q} \
            --others {input.others:q} --reward-models {params.reward_models:q} --examples {output.examples:q} \
            --output {output.metrics:q} --log {log:q}
        """


rule loss:
    """Draw the loss of a run and of the runs it descends from."""
    input:
        lineage_steps,
    output:
        report("results/{run}/loss.png", caption="captions/loss.rst", category="Curves"),
    log:
        "results/logs/loss/{run}.log",
    conda:
        "../envs/posttrain.yaml"
    resources:
        mem_mb=job_memory,
        runtime=job_minutes,
    shell:
        """
        python "$POSTTRAIN"/plot_loss.py --output {output:q} --log {log:q} {input:q}
        """

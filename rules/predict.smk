"""Predictions.

Needs: a model and a dataset.
Makes: results/{run}/predictions/{dataset}.jsonl, the model's completion of every row of the dataset, in its order. A base completes
alike.
Steps: rows in windows -> prompts as in training -> what was generated before is looked up -> the rest in batches by length -> a
line a row.
"""


rule predict:
    """Complete the rows of a dataset with a model."""
    input:
        spec="results/{run}/predictions/{dataset}/spec.json",
        model=ancient(own_model),
        manifest=own_manifest,
        rows=predicted_rows,
    output:
        "results/{run}/predictions/{dataset}.jsonl",
    log:
        "results/logs/predict/{run}/{dataset}.log",
    conda:
        "../envs/posttrain.yaml"
    threads: workflow.cores
    resources:
        gpu=job_gpus,
        mem_mb=job_memory,
        runtime=job_minutes,
    params:
        data=rows_folder,
    shell:
        """
        exec python "$POSTTRAIN"/predict.py --spec {input.spec:q} --model {input.model:q} --manifest {input.manifest:q} \
            --data {params.data:q} --output {output:q} --log {log:q}
        """

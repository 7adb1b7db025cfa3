"""Distillation: learning from the distributions of a teacher (Hinton et al. 2015; Agarwal et al. 2024).

Needs: the run's spec, its parent's model, its tokens, and the teacher's model or its most likely tokens, which are stored once.
Makes: results/{run}/trained/ (an adapter, or all weights), train.jsonl and train.json.
Steps: the teacher reads every row, where `teacher_top_k` is set -> train with TRL's SFTTrainer on the divergence -> save.
"""


rule topk:
    """Store a teacher's most likely tokens at every trained position of a dataset, for all runs that learn from it."""
    input:
        tokens=topk_tokens_files,
        model=ancient(own_model),
        manifest=own_manifest,
    output:
        train="results/{run}/topk/{dataset},max_length={max_length}{trained},k={k}{form}/train.parquet",
        validation="results/{run}/topk/{dataset},max_length={max_length}{trained},k={k}{form}/validation.parquet",
    log:
        "results/logs/topk/{run}/{dataset},max_length={max_length}{trained},k={k}{form}.log",
    wildcard_constraints:
        k="[0-9]+",
        form="(,fp32|,bf16)?(,temperature=[0-9.e+-]+)?",
    conda:
        "../envs/posttrain.yaml"
    threads: workflow.cores
    resources:
        gpu=job_gpus,
        mem_mb=job_memory,
        runtime=job_minutes,
    params:
        version=VERSIONS["topk"],
        tokens=tokens_folder,
        output=subpath(output.train, parent=True),
    shell:
        """
        exec python "$POSTTRAIN"/compute_topk.py --model {input.model:q} --tokens {params.tokens:q} \
            --output {params.output:q} --log {log:q}
        """


rule distill:
    """Train a model to predict what a teacher predicts."""
    input:
        spec="results/{run}/spec.json",
        preflight=ancient("results/{run}/preflight.json"),
        tokens=run_tokens_files,
        held_out=run_held_out,
        metric=run_metric,
        topk=run_topk,
        model=ancient(parent_model),
        manifest=parent_manifest,
        teacher=ancient(teacher_model),
        teacher_manifest=teacher_manifest,
    output:
        trained=directory("results/{run}/trained"),
        steps="results/{run}/train.jsonl",
        summary="results/{run}/train.json",
    log:
        "results/logs/distill/{run}.log",
    wildcard_constraints:
        run=CANONICAL + PROJECT.pattern("distill"),
    conda:
        "../envs/posttrain.yaml"
    threads: workflow.cores
    resources:
        gpu=job_gpus,
        mem_mb=job_memory,
        runtime=job_minutes,
    params:
        tokens=tokens_folder,
        topk=topk_folder,
    # fmt: off
    shell:
        """
        exec python "$POSTTRAIN"/train_distill.py --spec {input.spec:q} --parent {input.model:q} \
            --manifest {input.manifest:q} --teacher {input.teacher:q} --teacher-manifest {input.teacher_manifest:q} \
            --tokens {params.tokens:q} --topk {params.topk:q} --held-out {input.held_out:q} --log {log:q}
        """
    # fmt: on

"""Preflight.

Needs: the run's spec and its evaluation's, its rows and tokens, what overlaps, the rows that it is measured on, its parent's configuration and tokenizer.
Makes: results/{run}/preflight.json and preflight.txt, what was checked before any compute is spent.
Steps: check the real tokens, the settings, the memory and the licences -> refuse the run, or let it train.
"""


rule preflight:
    """Stop the mistakes that cost days."""
    input:
        spec="results/{run}/spec.json",
        rows=run_rows,
        overlap=run_overlap,
        tokens=preflight_tokens_files,
        model=ancient(parent_model),
        manifest=parent_manifest,
        evaluation=ancient("results/{run}/eval/spec.json"),  # another evaluation is no reason to check again
        judges=preflight_judges,
        measured=ancient(measured_rows),
        besides=preflight_besides,
    output:
        report="results/{run}/preflight.json",
        text=report("results/{run}/preflight.txt", caption="captions/preflight.rst", category="Preflight"),
    log:
        "results/logs/preflight/{run}.log",
    priority: 1  # a refusal comes before the evaluation of a base
    conda:
        "../envs/posttrain.yaml"
    resources:
        mem_mb=job_memory,
        runtime=job_minutes,
    params:
        context=preflight_context,
        staged=staged_preflight_context,
        data=rows_folder,
        tokens=tokens_folder,
        measured=folders_of_measured,
        output=subpath(output.report, parent=True),
    shell:
        """
        python "$POSTTRAIN"/check_run.py --spec {input.spec:q} --parent {input.model:q} --data {params.data:q} \
            --tokens {params.tokens:q} --context {params.staged:q} \
            --evaluation {input.evaluation:q} --measured {params.measured:q} --output {params.output:q} --log {log:q}
        """

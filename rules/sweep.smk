"""Sweeps.

Needs: eval.json, the examples and train.json of every point; what the points share is built once.
Makes: results/sweeps/{sweep}/report.html, a page with the answer in a sentence; table.tsv; plots/.
Steps: compare the settings on the same examples, over their seeds -> correct the p-values for their number -> draw -> say
which setting is enough.
"""


rule sweep:
    """Compare the runs of a sweep."""
    input:
        context="results/sweeps/{sweep}/context.json",
        results=sweep_results,
        overruled=sweep_overruled,
    output:
        table=report("results/sweeps/{sweep}/table.tsv", caption="captions/table.rst", category="Sweeps"),
        page=report("results/sweeps/{sweep}/report.html", caption="captions/sweep.rst", category="Sweeps"),
        plots=report(
            directory("results/sweeps/{sweep}/plots"),
            patterns=["{figure}.svg"],
            caption="captions/plots.rst",
            category="Sweeps",
        ),
    log:
        "results/logs/sweep/{sweep}.log",
    conda:
        "../envs/posttrain.yaml"
    resources:
        mem_mb=job_memory,
        runtime=job_minutes,
    params:
        output=subpath(output.table, parent=True),
    shell:
        """
        python "$POSTTRAIN"/compare_sweep.py --context {input.context:q} \
            --output {params.output:q} --log {log:q}
        """

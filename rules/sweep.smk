"""Sweeps.

Needs: eval.json and the examples of every point of the grid; what the points share is built once.
Makes: results/sweeps/{sweep}/table.tsv and plot.png.
Steps: compare every run with the first on the same examples -> correct the p-values for their number -> one line for each
run, with its overrides, its metrics, their intervals and verdicts -> one panel for each metric.
"""


rule sweep:
    """Compare the runs of a sweep."""
    input:
        metrics=sweep_metrics,
        examples=sweep_examples,
    output:
        table="results/sweeps/{sweep}/table.tsv",
        plot="results/sweeps/{sweep}/plot.png",
    log:
        "results/logs/sweep/{sweep}.log",
    conda:
        "../envs/posttrain.yaml"
    params:
        points=sweep_points,
    shell:
        """
        python "$POSTTRAIN"/compare_sweep.py --points {params.points:q} \
            --table {output.table:q} --plot {output.plot:q} --log {log:q}
        """


localrules:
    sweep,

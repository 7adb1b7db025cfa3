"""Sweeps.

Needs: eval.json of every point of the grid; what the points share is built once.
Makes: results/sweeps/{sweep}/table.tsv and plot.png.
Steps: one line for each run, with its overrides, its metrics and their intervals -> one panel for each metric.
"""


rule sweep:
    """Compare the runs of a sweep."""
    input:
        sweep_metrics,
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

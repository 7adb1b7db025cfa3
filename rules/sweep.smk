"""Sweeps.

Needs: eval.json of every point of the grid; what the points share is built once.
Makes: results/sweeps/{sweep}/table.tsv and plot.png.
Steps: one line for each run, with its overrides, its metrics and their intervals -> one panel for each metric.
"""


def sweep_metrics(wildcards):
    return expand("results/{run}/eval.json", run=PROJECT.sweep_runs(wildcards.sweep))


def sweep_points(wildcards):
    return json.dumps(PROJECT.sweep_points(wildcards.sweep))


rule sweep:
    """Compare the runs of a sweep."""
    input:
        sweep_metrics,
    output:
        table="results/sweeps/{sweep}/table.tsv",
        plot="results/sweeps/{sweep}/plot.png",
    log:
        "results/logs/sweep/{sweep}.log",
    params:
        points=sweep_points,
    conda:
        "../envs/posttrain.yaml"
    shell:
        """
        python $POSTTRAIN/compare_sweep.py --points {params.points:q} \
            --table {output.table:q} --plot {output.plot:q} --log {log:q}
        """


localrules:
    sweep,

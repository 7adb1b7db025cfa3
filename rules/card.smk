"""Model cards.

Needs: an evaluated run, what the runs before it left, and the records of its base and its datasets.
Makes: results/{run}/README.md, the card with which the run is published.
Steps: collect -> one page of Markdown with the hub's front matter. Nothing is measured here. The exports that have a proof are in it; none
is asked for.
"""


rule card:
    """Say what a run is: recipe, data, results with intervals, limits, cost, exports, and how to load it."""
    input:
        results=card_files,
    output:
        "results/{run}/README.md",
    log:
        "results/logs/card/{run}.log",
    conda:
        "../envs/posttrain.yaml"
    resources:
        mem_mb=job_memory,
        runtime=job_minutes,
    params:
        context=card_context,
        staged=staged_card_context,
    shell:
        """
        python "$POSTTRAIN"/make_card.py --context {params.staged:q} --output {output:q} --log {log:q}
        """

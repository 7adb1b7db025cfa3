"""Reports.

Needs: everything that the configured runs left, and the reports of their data.
Makes: results/report.html, one page for people that needs no network; results/figures/, its figures as PNG and SVG.
Steps: collect -> draw -> one page. Nothing is measured here: every number comes from a file that the page names.
"""


rule report:
    """One page of all runs: the graph, verdicts, curves, answers side by side, cost, licences, provenance."""
    input:
        context="results/context.json",
        results=reported,
        data=reported_data,
        besides=reported_besides,
    output:
        page=report("results/report.html", caption="captions/report.rst", category="Report"),
        figures=report(
            directory("results/figures"),
            patterns=["{figure}.svg"],
            caption="captions/figures.rst",
            category="Curves",
        ),
    log:
        "results/logs/report.log",
    conda:
        "../envs/posttrain.yaml"
    threads: workflow.cores
    resources:
        mem_mb=job_memory,
        runtime=job_minutes,
    shell:
        """
        python "$POSTTRAIN"/make_report.py --context {input.context:q} --cores {threads} --output {output.page:q} \
            --figures {output.figures:q} --log {log:q}
        """

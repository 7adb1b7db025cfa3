"""Reports.

Needs: everything that the configured runs left, and the reports of their data.
Makes: report.context.json of each page, what it says of the configuration; results/report.html, one page for people that needs no network; results/figures/, its figures as PNG and SVG.
Steps: collect -> draw -> one page. Nothing is measured here: every number comes from a file that the page names.
"""


rule context:
    """Write down what a page cannot read from results; only a changed context makes the page again."""
    output:
        "results/{page}.context.json",
    log:
        "results/logs/context/{page}.log",
    wildcard_constraints:
        page="report|(data|sweeps)/[a-z][a-z0-9_]*/report",
    params:
        context=page_context,
    run:
        Path(output[0]).write_text(f"{params.context}\n")


rule report:
    """One page of all runs: the graph, verdicts, curves, answers side by side, cost, licences, provenance."""
    input:
        context="results/report.context.json",
        results=reported,
        data=reported_data,
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
    shell:
        """
        python "$POSTTRAIN"/make_report.py --context {input.context:q} --cores {threads} --output {output.page:q} \
            --figures {output.figures:q} --log {log:q}
        """


localrules:
    context,
    report,

"""Specs, contexts and names.

Needs: the configuration.
Makes: spec.json of a base, a dataset, a run or an evaluation; context.json of what else is asked of the configuration; links for
names that say what another name says.
Steps: canonical JSON -> a file, written only when it changes, so that Snakemake reruns what it changes.
"""


rule spec:
    """Write down what determines a result; only a changed spec makes its stage run again."""
    input:
        stored_spec,
    output:
        "results/{target}/spec.json",
    log:
        "results/logs/spec/{target}.log",
    conda:
        "../envs/posttrain.yaml"
    params:
        spec=spec_json,
        staged=staged_spec,
    shell:
        "(cp {params.staged:q} {output:q}.part && mv {output:q}.part {output:q}) 2> {log:q}"


rule context:
    """Write down what a check or a report has to know and no spec says: licences, allowed checks, a sweep's points."""
    input:
        stored_context,
    output:
        "results/{context}context.json",
    log:
        "results/logs/context/{context}context.log",
    wildcard_constraints:
        context=rf"(((data|sweeps)/)?{CANONICAL}[a-z][a-z0-9_]*{OVERRIDES}/)?",
    conda:
        "../envs/posttrain.yaml"
    params:
        context=context_json,
        staged=staged_context,
    shell:
        "(cp {params.staged:q} {output:q}.part && mv {output:q}.part {output:q}) 2> {log:q}"


if ALIASES:

    rule alias:
        """A name that says what another says already, such as an override equal to the file's value."""
        input:
            lambda wildcards: f"results/{PROJECT.run(wildcards.alias).name}/{wildcards.file}",
        output:
            "results/{alias}/{file}",
        log:
            "results/logs/alias/{alias}/{file}.log",
        wildcard_constraints:
            alias="|".join(map(re.escape, ALIASES)),
            file=".+",
        conda:
            "../envs/posttrain.yaml"
        shell:
            "ln -sfr {input:q} {output:q} 2> {log:q}"

    localrules:
        alias,


localrules:
    spec,
    context,

"""Specs and names.

Needs: the configuration.
Makes: spec.json of a base, a dataset, a run or an evaluation; links for names that say what another name says.
Steps: canonical JSON -> a file, written only when it changes, so that Snakemake reruns what it changes.
"""


rule spec:
    """Write down what determines a result; only a changed spec makes its stage run again."""
    output:
        "results/{target}/spec.json",
    log:
        "results/logs/spec/{target}.log",
    conda:
        "../envs/posttrain.yaml"
    params:
        spec=spec_json,
    shell:
        "(printf '%s\\n' {params.spec:q} > {output:q}.part && mv {output:q}.part {output:q}) 2> {log:q}"


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

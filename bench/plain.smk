"""RUNS DPO runs of one SFT model as a Snakefile without any of ours: the same jobs and files a run, by names alone."""

import os

SHARED = "tokens/train tokens/validation tokens/report data/train data/validation data/summary data/overlap".split()
TOKENS = ["shared/tokens/train", "shared/tokens/validation"]
MODEL = [ancient("shared/model"), "shared/merge"]


wildcard_constraints:
    run="[a-z0-9_]+",


rule all:
    input:
        expand("results/dpo_{i}/eval.json", i=range(int(os.environ["RUNS"]))),


rule shared:
    output:
        expand("shared/{name}", name=[*SHARED, "logprobs", "merge", "parent_examples", "base_examples"]),
        directory("shared/model"),
    shell:
        "make {output}"


rule spec:
    output:
        "results/{run}/spec.json",
    shell:
        "write {output}"


rule eval_spec:
    output:
        "results/{run}/eval/spec.json",
    shell:
        "write {output}"


rule preflight:
    input:
        "results/{run}/spec.json",
        "shared/data/train",
        "shared/data/summary",
        "shared/data/overlap",
        "shared/tokens/train",
        "shared/tokens/report",
        MODEL,
    output:
        "results/{run}/preflight.json",
        "results/{run}/preflight.txt",
    shell:
        "check {input} {output}"


rule dpo:
    input:
        "results/{run}/spec.json",
        ancient("results/{run}/preflight.json"),
        TOKENS,
        "shared/logprobs",
        MODEL,
    output:
        directory("results/{run}/trained"),
        "results/{run}/train.jsonl",
        "results/{run}/train.json",
    shell:
        "train {input} {output}"


rule merge:
    input:
        "results/{run}/spec.json",
        ancient("results/{run}/preflight.json"),
        "results/{run}/trained",
        "results/{run}/train.json",
        TOKENS,
        MODEL,
    output:
        directory("results/{run}/model"),
        "results/{run}/merge.json",
        "results/{run}/provenance.json",
    shell:
        "merge {input} {output}"


rule eval:
    input:
        "results/{run}/eval/spec.json",
        ancient("results/{run}/model"),
        "results/{run}/merge.json",
        "shared/tokens/validation",
        "shared/tokens/report",
        "shared/data/validation",
        "shared/parent_examples",
        "shared/base_examples",
    output:
        "results/{run}/eval.json",
        "results/{run}/eval/examples.parquet",
    shell:
        "evaluate {input} {output}"

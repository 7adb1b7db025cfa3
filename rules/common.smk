"""Read the configuration, refuse what is wrong with it, and tell the stages where they are."""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(workflow.basedir) / "scripts"))

from posttrain.errors import UserError
from posttrain.project import OVERRIDES, VERSIONS, Project

# A file given with --configfile replaces the default one. Snakemake itself would merge the two.
if not workflow.overwrite_configfiles:
    local = Path("config/config.yaml")

    configfile: local if local.exists() else Path(workflow.basedir) / local


CONFIG_FILE = os.path.relpath(workflow.configfiles[-1])
try:
    PROJECT = Project(config, CONFIG_FILE)
    ALIASES = PROJECT.check_targets(sys.argv[1:])
except UserError as error:
    sys.exit(f"posttrain: {error}")

# What a job needs and its result does not depend on goes through the environment, so that it causes no rerun.
os.environ["POSTTRAIN"] = f"{workflow.basedir}/scripts"
os.environ["POSTTRAIN_TRACKING"] = PROJECT.config.tracking.model_dump_json()
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
os.environ["TOKENIZERS_PARALLELISM"] = "false"


envvars:
    "POSTTRAIN",
    "POSTTRAIN_TRACKING",


wildcard_constraints:
    base="[a-z][a-z0-9_]*",
    dataset="[a-z][a-z0-9_]*",
    sweep="[a-z][a-z0-9_]*",
    max_length="[0-9]+",
    run=rf"[a-z][a-z0-9_]*{OVERRIDES}",
    target=rf"((bases|data)/)?[a-z][a-z0-9_]*{OVERRIDES}(/eval)?",


def spec_json(wildcards):
    return PROJECT.spec(wildcards.target)


def own_model(wildcards):
    return PROJECT.model(wildcards.run)


def own_manifest(wildcards):
    return PROJECT.manifest(wildcards.run)


def parent_model(wildcards):
    return PROJECT.model(PROJECT.run(wildcards.run).parent)


def parent_manifest(wildcards):
    return PROJECT.manifest(PROJECT.run(wildcards.run).parent)


def run_tokens(wildcards):
    node = PROJECT.run(wildcards.run)
    return PROJECT.tokens(node.name, node.run.data, node.run.max_length)


def run_tokens_files(wildcards):
    return [f"{run_tokens(wildcards)}/{split}.parquet" for split in ("train", "validation")]


rule spec:
    """Write down what determines a result; only a changed spec makes its stage run again."""
    output:
        "results/{target}/spec.json",
    log:
        "results/logs/spec/{target}.log",
    params:
        spec=spec_json,
    conda:
        "../envs/posttrain.yaml"
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

    ruleorder: alias > spec

    localrules:
        alias,


localrules:
    spec,

"""make for LLM post-training: base -> tokens -> sft -> dpo, or reward -> ppo -> merge -> eval, one rule a stage."""

from snakemake.utils import min_version

min_version("9.0")


include: "rules/common.smk"
include: "rules/resources.smk"
include: "rules/spec.smk"
include: "rules/base.smk"
include: "rules/data.smk"
include: "rules/preflight.smk"
include: "rules/train.smk"
include: "rules/dpo.smk"
include: "rules/distill.smk"
include: "rules/merge.smk"
include: "rules/eval.smk"
include: "rules/export.smk"
include: "rules/predict.smk"
include: "rules/judge.smk"
include: "rules/sweep.smk"
include: "rules/rating.smk"
include: "rules/report.smk"
include: "rules/card.smk"


rule all:
    """Every run of the configuration, trained and evaluated."""
    default_target: True
    input:
        expand("results/{run}/eval.json", run=PROJECT.config.runs),


onstart:
    check_machine()
    check_cluster()
    wait_for_turn()
    announce_in_storage()
    note_repeated_checks()
    remember_configuration()
    start_fork_server()


onsuccess:
    build_what_checks_hid()
    show_results()

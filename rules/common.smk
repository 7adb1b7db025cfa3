"""Read the configuration, refuse what is wrong with it, and tell the stages where they are."""

import gc
import json
import os
import re
import sys
from pathlib import Path

# Python's search for circles of objects goes through the whole graph again and again while it grows, and finds none.
gc.set_threshold(100_000)

# The folder of posttrain's own Snakefile, which a project's may include.
HOME = Path(workflow.current_basedir.get_path_or_uri(secret_free=True)).parent

sys.path.insert(0, str(HOME / "scripts"))

from posttrain.compat.s3_storage import look_again
from posttrain.compat.snakemake import (
    carry_wildcards,
    default_storage,
    ignore_sizes_in_storage,
    job_environment,
    planned_outputs,
    replaced,
    stages_here,
    start_again,
    targets,
)
from posttrain.config.plain_values import check_file
from posttrain.runtime.errors import UserError
from posttrain.config.overrides import OVERRIDES
from posttrain.exports import EXPORTS
from posttrain.objectives import OBJECTIVES
from posttrain.workflow import card_inputs, contexts, judging, paths
from posttrain.workflow.project import Project
from posttrain.workflow.specs import VERSIONS
from posttrain.workflow.staging import staged
from posttrain.workflow.storage import Storage
from posttrain.workflow.targets import check_is_no_target, evaluated
from posttrain.runtime import fork_server, team_cache
from posttrain.runtime.console import say
from posttrain.runtime.processes import check_devices
from posttrain.provenance.missing import gone

carry_wildcards()

# A file given with --configfile replaces the default one. Snakemake itself would merge the two.
own_file = Path("config/config.yaml")
own_file = own_file if own_file.exists() else HOME / own_file
try:
    for file in workflow.overwrite_configfiles or [own_file]:
        check_is_no_target(file)
        check_file(file)
except UserError as error:
    sys.exit(f"posttrain: {error}")

if not workflow.overwrite_configfiles:

    configfile: own_file


CONFIG_FILE = os.path.relpath(workflow.configfiles[-1])
try:
    PROJECT = Project(config, CONFIG_FILE)
    team_cache.check(PROJECT.config.cache.model_dump())
    TARGETS = targets(sys.argv[1:])
    ALIASES = PROJECT.check_targets(TARGETS)
except UserError as error:
    sys.exit(f"posttrain: {error}")

# Snakemake does not miss a folder that nothing reads which it is asked for.
for line in gone(PROJECT, [name for name in map(PROJECT.model_named, TARGETS) if name]):
    if not any(target in line for target in TARGETS):
        say(f"posttrain: {line}")

# Where results are not in this folder: jobs get copies of what they declare, and nothing else.
STORAGE = Storage(*where) if (where := default_storage(workflow)) else None
if STORAGE:
    try:
        if workflow.is_main_process:
            STORAGE.check()
    except UserError as error:
        sys.exit(f"posttrain: {error}")
    look_again(STORAGE.provider)
    ignore_sizes_in_storage()
    job_environment({"POSTTRAIN_RESULTS": STORAGE.folder})

COMMAND = f"snakemake --configfile {CONFIG_FILE} --cores all"

# What a job needs and its result does not depend on goes through the environment, so that it causes no rerun.
os.environ |= {
    "POSTTRAIN": f"{HOME}/scripts",
    "POSTTRAIN_HARDWARE": PROJECT.config.hardware.model_dump_json(),
    "POSTTRAIN_TRACKING": PROJECT.config.tracking.model_dump_json(),
    "POSTTRAIN_CACHE": PROJECT.config.cache.model_dump_json(),
    "PATH": os.pathsep.join([os.path.dirname(sys.executable), os.getenv("PATH", os.defpath)]),
    "TOKENIZERS_PARALLELISM": "false",
    "THP_MEM_ALLOC_ENABLE": "1",  # torch's large tensors on huge pages: a step on a CPU is up to a sixth faster
}


envvars:
    "POSTTRAIN",
    "POSTTRAIN_HARDWARE",
    "POSTTRAIN_TRACKING",
    "POSTTRAIN_CACHE",


if "POSTTRAIN_CHECKPOINTS" in os.environ:

    envvars:
        "POSTTRAIN_CHECKPOINTS",


# A rule builds a run under its canonical name only; the other names are links.
CANONICAL = f"(?!(?:{'|'.join(map(re.escape, ALIASES))})/)" if ALIASES else ""


wildcard_constraints:
    base="[a-z][a-z0-9_]*",
    dataset="[a-z][a-z0-9_]*",
    kind="|".join(map(re.escape, EXPORTS)),
    sweep="[a-z][a-z0-9_]*",
    pair=rf"[a-z][a-z0-9_]*{OVERRIDES}~[a-z][a-z0-9_]*{OVERRIDES}",
    max_length="[0-9]+",
    trained="(,assistant_turns=last)?(,train_thoughts=false)?(,long_rows=split)?",
    run=rf"{CANONICAL}[a-z][a-z0-9_]*{OVERRIDES}",
    target=rf"{CANONICAL}((bases|data)/)?[a-z][a-z0-9_]*{OVERRIDES}(/eval|/judge|/export|/predictions/[a-z][a-z0-9_]*)?",


def if_stored(files):
    """Files that a job reads where they are: it has to declare them only where it gets copies of what it declares."""
    return ancient(files) if STORAGE and files else []


def users(files):
    """Files of the user's, which stay in this folder wherever results are; in storage, their hashes are compared instead."""
    return [ancient(local(file)) if STORAGE else file for file in files]


def stored_text(text, file, sources=None):
    return local(STORAGE.text(text, file, sources)) if STORAGE else []


def spec_json(wildcards):
    return PROJECT.spec(wildcards.target)


def stored_spec(wildcards):
    """In storage, a file that is younger than the spec there if that has another text, or was read from other files."""
    table, _, name = wildcards.target.partition("/")
    own = table == "data" and not PROJECT.config.datasets[name].ratings
    sources = {f"results/data/{name}/data.json": PROJECT.inputs.sources(name)} if own else {}
    return stored_text(spec_json(wildcards), f"results/{wildcards.target}/spec.json", sources)


def staged_spec(wildcards, output):
    return staged(spec_json(wildcards))


def context_json(wildcards):
    return PROJECT.context(wildcards.context.rstrip("/"), COMMAND)


def stored_context(wildcards):
    return stored_text(context_json(wildcards), f"results/{wildcards.context}context.json")


def staged_context(wildcards, output):
    return staged(context_json(wildcards))


def own_model(wildcards):
    return PROJECT.merged(wildcards.run)


def own_shipped(wildcards):
    return PROJECT.model(wildcards.run)


def own_manifest(wildcards):
    return PROJECT.manifest(wildcards.run)


def parent_model(wildcards):
    return PROJECT.merged(PROJECT.run(wildcards.run).parent)


def parent_shipped(wildcards):
    return PROJECT.model(PROJECT.run(wildcards.run).parent)


def parent_manifest(wildcards):
    return PROJECT.manifest(PROJECT.run(wildcards.run).parent)


def run_tokens(wildcards):
    return PROJECT.run_tokens(PROJECT.run(wildcards.run))


def run_tokens_files(wildcards):
    folder = run_tokens(wildcards)
    return [*(f"{folder}/{split}.parquet" for split in ("train", "validation")), *if_stored([f"{folder}/report.json"])]


def base_text(wildcards):
    base = PROJECT.config.bases[wildcards.base]
    names = [getattr(base, key) for key in ("text", "data") if getattr(base, key, None)]
    return [f"results/data/{name}/train.parquet" for name in names]


def whole_model(wildcards):
    return ancient(PROJECT.model(PROJECT.config.bases[wildcards.base].of))


def whole_manifest(wildcards):
    return PROJECT.manifest(PROJECT.config.bases[wildcards.base].of)


def base_template(wildcards):
    return users(PROJECT.inputs.template(wildcards.base))


def data_sources(wildcards):
    files = PROJECT.inputs.sources(wildcards.dataset)
    return files if PROJECT.config.datasets[wildcards.dataset].ratings else users(files)


ROWS = ("train.parquet", "validation.parquet", "data.json")


def mixed_rows(wildcards):
    parts = PROJECT.config.datasets[wildcards.dataset].mix
    return expand("results/data/{part}/{file}", part=parts, file=ROWS)


def folders(files):
    """The folders of files, each once, in their order."""
    return list(dict.fromkeys(map(os.path.dirname, files)))


def mixed_folders(wildcards, input):
    return folders(input.parts)


def held_out_rows(wildcards):
    names = dict.fromkeys([wildcards.dataset, *PROJECT.inputs.held_out_data])
    return [f"results/data/{name}/validation.parquet" for name in names]


def held_out_folders(wildcards, input):
    return folders(input.held_out)


def dropped_rows(wildcards):
    return if_stored([f"results/data/{wildcards.dataset}/dropped.jsonl"])


def dataset_tokens_reports(wildcards):
    return [f"{folder}/report.json" for folder in PROJECT.tokens_of(wildcards.dataset)]


def trained_turns(wildcards):
    return "last" if "assistant_turns=last" in wildcards.trained else "all"


def trained_thoughts(wildcards):
    return "false" if "train_thoughts=false" in wildcards.trained else "true"


def run_overlap(wildcards):
    return f"{run_rows_folder(wildcards)}/overlap.json"


def preflight_tokens_files(wildcards):
    on_policy = OBJECTIVES[PROJECT.run(wildcards.run).run.objective].on_policy
    return [] if on_policy else [f"{run_tokens(wildcards)}/{file}" for file in ("train.parquet", "report.json")]


def preflight_judges(wildcards):
    node = PROJECT.run(wildcards.run)
    bases = [*PROJECT.inputs.foreign_rewards(node.name).values()]
    bases += [PROJECT.lineage(node.teacher)[0]] if node.teacher else []
    return [PROJECT.manifest(base) for base in dict.fromkeys(bases)]


def preflight_context(wildcards):
    """What a preflight has to know besides. Not a job of its own: Snakemake looks at nothing behind a job that has to run, and
    what follows the preflight does not depend on it otherwise."""
    values = json.loads(PROJECT.context(wildcards.run, COMMAND))
    return json.dumps(
        {key: value for key, value in values.items() if key not in ("judges", "hardware") or value}, sort_keys=True
    )


def staged_preflight_context(wildcards, input):
    return staged(preflight_context(wildcards))


def folders_of_measured(wildcards, input):
    return folders(input.measured)


def tokens_folder(wildcards, input):
    """The folder of the tokens that a job reads; the empty text where it reads none."""
    return "".join(folders(input.tokens))


def tokens_folders(wildcards, input):
    return folders(input.tokens)


def rows_folder(wildcards, input):
    return "".join(folders(input.rows))


def measured_rows(wildcards):
    return [
        f"results/data/{name}/{file}"
        for name in PROJECT.inputs.held_out_data
        for file in ("train.parquet", "data.json")
    ]


def run_rows(wildcards):
    return [f"{run_rows_folder(wildcards)}/{file}" for file in ("train.parquet", "data.json")]


def run_rows_folder(wildcards):
    return f"results/data/{PROJECT.run(wildcards.run).run.data}"


def judge_manifests(wildcards):
    return [PROJECT.manifest(name) for name in PROJECT.reward_models(wildcards.run)]


def judge_models(wildcards):
    return [PROJECT.merged(name) for name in PROJECT.reward_models(wildcards.run)]


def folders_of_judges(wildcards, input):
    """The folders of the reward models; from `input`, so that Snakemake does not compare them again."""
    return folders(input.judges)


def reward_function(wildcards):
    return users(PROJECT.inputs.reward_function(wildcards.run))


def run_held_out(wildcards):
    return PROJECT.held_out_file(wildcards.run)


def run_metric(wildcards):
    return users(PROJECT.inputs.metric(wildcards.run))


def selector(wildcards):
    return PROJECT.names.selector(wildcards.dataset)


def selector_model(wildcards):
    return PROJECT.merged(selector(wildcards))


def selector_manifest(wildcards):
    return PROJECT.manifest(selector(wildcards))


def selected_tokens(wildcards):
    node = PROJECT.run(selector(wildcards))
    return PROJECT.tokens(node.name, PROJECT.config.datasets[wildcards.dataset].from_, node.run.max_length)


def selected_tokens_files(wildcards):
    return [f"{selected_tokens(wildcards)}/{file}.parquet" for file in ("train", "validation")]


def selected_rows(wildcards):
    source = PROJECT.config.datasets[wildcards.dataset].from_
    return expand("results/data/{source}/{file}", source=source, file=ROWS)


def generated_rows(wildcards):
    return expand("results/data/{source}/{file}", source=PROJECT.config.datasets[wildcards.dataset].from_, file=ROWS)


def generated_answers(wildcards):
    return paths.predictions(PROJECT.names.writer(wildcards.dataset), PROJECT.config.datasets[wildcards.dataset].from_)


def logprobs_tokens(wildcards):
    return PROJECT.tokens(wildcards.run, wildcards.dataset, wildcards.max_length)


def logprobs_tokens_files(wildcards):
    return [f"{logprobs_tokens(wildcards)}/{file}" for file in ("train.parquet", "report.json")]


def parent_logprobs(wildcards):
    return PROJECT.logprobs(wildcards.run)


def topk_tokens(wildcards):
    return PROJECT.tokens(wildcards.run, wildcards.dataset, wildcards.max_length) + wildcards.trained


def topk_tokens_files(wildcards):
    return [f"{topk_tokens(wildcards)}/{file}" for file in ("train.parquet", "validation.parquet", "report.json")]


def run_topk(wildcards):
    folder = PROJECT.topk(wildcards.run)
    return [f"{folder}/{split}.parquet" for split in ("train", "validation")] if folder else []


def topk_folder(wildcards, input):
    return "".join(folders(input.topk))


def teacher_model(wildcards):
    return PROJECT.merged(PROJECT.run(wildcards.run).teacher)


def teacher_manifest(wildcards):
    return PROJECT.manifest(PROJECT.run(wildcards.run).teacher)


def eval_tokens(wildcards):
    base = PROJECT.lineage(wildcards.run)[0]
    length = PROJECT.config.evaluation.max_length
    suites = [] if PROJECT.is_reward(wildcards.run) else PROJECT.inputs.suite_data("perplexity", "preference")
    return [
        f"results/tokens/{base}/{dataset},max_length={length}/{file}"
        for dataset in dict.fromkeys([*PROJECT.inputs.evaluation_data, *suites])
        for file in ("validation.parquet", "report.json")
    ]


def eval_tokens_folder(wildcards, input):
    return "".join(folders(folders(input.tokens))) or f"results/tokens/{PROJECT.lineage(wildcards.run)[0]}"


def eval_rows(wildcards):
    reward = PROJECT.is_reward(wildcards.run)
    datasets = PROJECT.inputs.evaluation_data if reward else PROJECT.inputs.held_out_data
    return expand("results/data/{dataset}/{file}", dataset=datasets, file=("validation.parquet", "data.json")) + expand(
        "results/data/{dataset}/train.parquet", dataset=[] if reward else PROJECT.inputs.shots_data
    )


def eval_folders(wildcards, input):
    return folders(input.rows)


def eval_judges(wildcards):
    judges = [] if PROJECT.is_reward(wildcards.run) else PROJECT.inputs.evaluation_rewards
    return [*map(PROJECT.manifest, judges), *if_stored([*map(PROJECT.merged, judges)])]


def overruled(models):
    """What says which checks were overruled for models and for what they start from."""
    runs = dict.fromkeys(run for model in models for run in PROJECT.lineage(model)[1:])
    return if_stored(expand("results/{run}/{file}", run=runs, file=("spec.json", "preflight.json")))


def eval_overruled(wildcards):
    is_run = wildcards.run not in PROJECT.config.bases
    training = if_stored([f"results/{wildcards.run}/train.json"]) if is_run else []
    return [*overruled([wildcards.run]), *training]


def eval_files(wildcards):
    return users([] if PROJECT.is_reward(wildcards.run) else PROJECT.inputs.suite_files)


def eval_others(wildcards):
    return expand("results/{other}/eval/examples.parquet", other=PROJECT.graph.others(wildcards.run))


def export_reference_json(wildcards):
    return PROJECT.export_reference(wildcards.run)


def staged_export_reference(wildcards):
    return staged(export_reference_json(wildcards))


def export_rows(wildcards):
    """The held-out rows that the proofs of a run's exports use."""
    return expand(
        "results/data/{dataset}/{file}",
        dataset=PROJECT.specs.exported_data(wildcards.run),
        file=("validation.parquet", "data.json"),
    )


def adapters_base(wildcards):
    """The model that a run's exported adapter belongs to."""
    return PROJECT.merged(PROJECT.adapter_line(wildcards.run)[0])


def adapters_manifest(wildcards):
    return PROJECT.manifest(PROJECT.adapter_line(wildcards.run)[0])


def adapter_stages(wildcards):
    """What training wrote of the runs whose adapters are one in the export; nothing for an export of another kind."""
    runs = PROJECT.adapter_line(wildcards.run)[1:] if EXPORTS[wildcards.kind].is_adapter else []
    return expand("results/{run}/trained", run=runs)


def adapter_specs(wildcards):
    return [f"{Path(folder).parent}/spec.json" for folder in adapter_stages(wildcards)]


def export_files(wildcards):
    """The user's own metrics, which proofs measure as well."""
    return users([] if PROJECT.is_reward(wildcards.run) else PROJECT.inputs.suite_files)


def predicted_rows(wildcards):
    folder = f"results/data/{wildcards.dataset}"
    return [*(f"{folder}/{file}" for file in ROWS), *dropped_rows(wildcards)]


# What a judge adds to comes from a job before it, so that a judge that is not there takes nothing with it.
JUDGED = bool(judging.suites(PROJECT.config))
EVALUATED = "results/{run}/eval/measured.json" if JUDGED else "results/{run}/eval.json"


def judged_pairs(wildcards):
    return judging.pairs(PROJECT.graph, wildcards.run)


def judged_others(wildcards):
    others = dict.fromkeys(pair.other for pair in judged_pairs(wildcards))
    return expand("results/{other}/eval/examples.parquet", other=others)


def suite_judges(wildcards):
    judges = list(dict.fromkeys(pair.judge for pair in judged_pairs(wildcards) if pair.judge))
    return [*map(PROJECT.manifest, judges), *if_stored([*map(PROJECT.merged, judges)])]


def judge_instructions(wildcards):
    return users([pair.suite.instruction for pair in judged_pairs(wildcards) if pair.suite.instruction])


def judge_settings(wildcards):
    """How suites are judged, as far as no verdict depends on it: prices, limits, the name of the variable with a key, files."""
    settings = {}
    for pair in judged_pairs(wildcards):
        endpoint = pair.suite.endpoint.model_dump(exclude_none=True) if pair.suite.endpoint else {}
        settings[pair.name] = endpoint | ({"instruction": pair.suite.instruction} if pair.suite.instruction else {})
    return json.dumps(settings, sort_keys=True)


def staged_judge_settings(wildcards):
    return staged(judge_settings(wildcards))


def judged_ratings(wildcards):
    return rating_files(wildcards) if judged_pairs(wildcards) else []


def system_prompt_rows(wildcards):
    """The rows whose system prompt goes into an export; nothing for a kind that has no place for one."""
    run = PROJECT.run(wildcards.run).run
    return [f"results/data/{run.data}/train.parquet"] if EXPORTS[wildcards.kind].gguf else []


def export_proofs(wildcards):
    """The proofs of the configured exports that a run can have, and of others that are there."""
    return [paths.proof(wildcards.run, kind) for kind in PROJECT.exported_kinds(wildcards.run)]


def lineage_steps(wildcards):
    return expand("results/{run}/train.jsonl", run=PROJECT.lineage(wildcards.run)[1:])


def sweep_results(wildcards):
    files = ("spec.json", "eval.json", "eval/examples.parquet", "train.json")
    return expand("results/{run}/{file}", run=PROJECT.sweep_runs(wildcards.sweep), file=files)


def sweep_overruled(wildcards):
    runs = PROJECT.sweep_runs(wildcards.sweep)
    files = ["train.jsonl", *(["judge/verdicts.jsonl"] if judging.suites(PROJECT.config) else [])]
    return [*overruled(runs), *if_stored(expand("results/{run}/{file}", run=runs, file=files))]


def reported_besides(wildcards):
    runs = PROJECT.reported_runs
    bases = dict.fromkeys(PROJECT.lineage(run)[0] for run in runs)
    asks_cases = any(suite.kind == "cases" for suite in PROJECT.inputs.suites.values())
    proofs = [file for run in runs for file in card_inputs.proofs(run)] if asks_cases else []
    return [*overruled(runs), *if_stored([PROJECT.manifest(base) for base in bases]), *proofs]


def merge_recorded(wildcards):
    """What a run's provenance has the hashes of."""
    node = PROJECT.run(wildcards.run)
    with_logprobs = OBJECTIVES[node.run.objective].reference == "logprobs"
    own = [f"{run_rows_folder(wildcards)}/train.parquet", *([PROJECT.logprobs(node.name)] if with_logprobs else [])]
    teacher = [PROJECT.manifest(node.teacher)] if node.teacher else []
    return if_stored([*own, *judge_manifests(wildcards), *teacher])


def preflight_besides(wildcards):
    """The tokenizers of judges of another base, and what says the licences of cards."""
    node = PROJECT.run(wildcards.run)
    bases = dict.fromkeys(PROJECT.inputs.foreign_rewards(node.name).values())
    bases |= {PROJECT.lineage(node.teacher)[0]: None} if node.teacher else {}
    cards = {"bases": "results/bases/{}/base.json", "datasets": "results/data/{}/data.json"}
    parts = [part.split(".") for part in PROJECT.graph.licences(node)]
    return if_stored([*map(PROJECT.model, bases), *(cards[table].format(name) for table, name in parts)])


def card_files(wildcards):
    return card_inputs.files(PROJECT, wildcards.run)


def card_context(wildcards):
    return card_inputs.context(PROJECT, wildcards.run)


def staged_card_context(wildcards, input):
    return staged(card_context(wildcards))


def rated_models(wildcards):
    return wildcards.pair.split("~")


def rated_examples(wildcards):
    return expand("results/{model}/eval/examples.parquet", model=rated_models(wildcards))


def rating_files(wildcards):
    return users(PROJECT.inputs.ratings)


def reported(wildcards):
    runs = PROJECT.reported_runs
    models = [*dict.fromkeys(PROJECT.lineage(run)[0] for run in runs), *runs]
    files = "train.jsonl train.json preflight.json merge.json provenance.json".split()
    return expand("results/{model}/{file}", model=models, file=["eval.json", "eval/examples.parquet"]) + expand(
        "results/{run}/{file}", run=runs, file=files
    )


def reported_data(wildcards):
    return expand("results/data/{dataset}/report.json", dataset=contexts.report(PROJECT.inputs, "")["datasets"])


def check_machine():
    """Refuse more processes in a job than this machine has devices, where the jobs run here."""
    if not workflow.local_exec:
        return
    try:
        check_devices(PROJECT.config.hardware.processes)
    except UserError as error:
        sys.exit(f"posttrain: {error}")


def announce_in_storage():
    """Write to the storage before the first job does."""
    if STORAGE:
        try:
            STORAGE.announce(CONFIG_FILE)
        except UserError as error:
            sys.exit(f"posttrain: {error}")


def wait_for_turn():
    """Let a command of another shell finish what both would build, then start anew with what is left."""
    from posttrain.workflow import build_lock

    if build_lock.take(planned_outputs(workflow)):
        start_again()


CHECKED_AGAIN = []


def note_repeated_checks():
    """Note whether checks run again, which hides from Snakemake what else there is to do below them."""
    CHECKED_AGAIN.append(replaced(workflow, "preflight"))


def build_what_checks_hid():
    """Start the command anew after checks that ran again: nothing is left, or what was hidden."""
    if any(CHECKED_AGAIN):
        start_again()


def start_fork_server():
    """Import once, for all stages of this command, what each of them imports."""
    fork_server.start(HOME / "scripts/fork_server.py", stages_here(workflow))


def remember_configuration():
    """Write down which file was read, so that `posttrain verify` and its like read the same."""
    paths.LAST_CONFIGURATION.parent.mkdir(exist_ok=True)
    paths.LAST_CONFIGURATION.write_text(f"{CONFIG_FILE}\n")


def show_results():
    """The table of the models that were asked for, where each of them is evaluated."""
    names = evaluated(PROJECT.inputs, TARGETS)
    if names and all(Path(f"results/{name}/eval.json").exists() for name in names):
        from posttrain.cli.table import table  # brings scipy, which takes longer than reading the workflow

        say(table(names), "results")

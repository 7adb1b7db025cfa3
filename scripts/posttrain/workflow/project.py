"""A validated configuration and the questions that the rules and the commands ask of it: a facade over this package."""

import json
from functools import cached_property
from pathlib import Path
from typing import Any

from posttrain import exports
from posttrain.config.loading import read
from posttrain.config.overrides import text
from posttrain.config.project_file import Config
from posttrain.config.runs import TRAINED
from posttrain.methods import combined, reference_form
from posttrain.objectives import OBJECTIVES
from posttrain.runtime.errors import UserError
from posttrain.training import early_stopping
from posttrain.workflow import contexts, paths, patterns, targets, validation
from posttrain.workflow.inputs import Inputs
from posttrain.workflow.lineage import Lineage
from posttrain.workflow.names import Names, Node
from posttrain.workflow.specs import Specs


class Project:
    """One configuration: its names, what they are made from, their specs and their files."""

    def __init__(self, values: dict[str, Any], file: str = "configuration", folder: Path = Path()) -> None:
        """Read a configuration; `folder` is the one that its relative paths belong to.

        Raises:
            UserError: for anything that is wrong with it, references and cycles included.
        """
        self.file, self.folder = file, folder
        self.config: Config = read(values)
        self.names = Names(self.config, values.get("runs") or {}, file, self._check_run, self._check_node)
        self.graph = Lineage(self.names)
        self.inputs = Inputs(self.graph, file, folder)
        self.specs = Specs(self.inputs)
        self._run_tokens: dict[str, str] = {}
        validation.check_datasets(self.config)
        for name in self.config.runs:
            self.run(name)
        validation.check_references(self.inputs)

    def _check_run(self, run: Any, place: str) -> None:
        validation.check_run(self.config, self.folder, run, place)

    def _check_node(self, node: Node) -> None:
        if self.config.use == "commercial":
            validation.check_licences(self.graph, node, self.folder)

    # ---- names and the graph

    def run(self, target: str) -> Node:
        """The run that `target`, such as `dpo_lora,rank=4`, names.

        Raises:
            UserError: unknown run or key, a value outside its type, a parent that does not exist, a cycle.
        """
        return self.names.run(target)

    def model_named(self, target: str) -> str | None:
        """The base or run that a target names; None for another result."""
        table, name, _ = paths.target(target)
        return name if name and not table and name not in ("report.html", "context.json") else None

    def sweep_runs(self, sweep: str) -> list[str]:
        """Canonical names of a sweep's runs, in the grid's order."""
        return [name for name, _ in self.names.sweep_points(sweep)]

    def lineage(self, name: str) -> list[str]:
        """The base, the runs after it in their order, and `name` itself at the end."""
        return self.graph.line(name)

    def adapter_line(self, name: str) -> list[str]:
        """The model that a run's exported adapter belongs to, and the runs after it whose adapters are one in the export."""
        line = self.lineage(name)
        runs = [self.run(run).run for run in line[1:]]
        keys = ("method", "peft_args", "merge_into")
        return line[-combined([{key: getattr(run, key) for key in keys} for run in runs]) - 1 :]

    def is_reward(self, name: str) -> bool:
        """Whether `name` is a run that trains a reward model."""
        return self.names.is_reward(name)

    @cached_property
    def reported_runs(self) -> list[str]:
        """Canonical names of the configured runs and of all that they are built from, parents first."""
        return self.graph.all_runs()

    def reward_models(self, name: str) -> list[str]:
        """The models that a run's reward is computed from: its reward models, and the reference of an implicit one."""
        reward = json.loads(self.spec(name)).get("reward", {})
        return [reward[key]["name"] for key in ("from", "sequence", "reference") if key in reward]

    # ---- specs and contexts

    def spec(self, target: str) -> str:
        """What determines `results/{target}`, as canonical JSON: sorted keys, nothing else."""
        return self.specs.text(target)

    def spec_hash(self, target: str) -> str:
        """SHA-256 of the spec file of `target`."""
        return self.specs.sha256(target)

    def export_reference(self, run: str) -> str:
        """What determines `results/{run}/export/reference.parquet`, as canonical JSON."""
        return json.dumps(self.specs.reference(run), sort_keys=True, indent=1)

    def exported_kinds(self, run: str) -> list[str]:
        """The kinds that a run's table of exports compares: the configured ones that it can have, and others with a proof.

        Raises:
            UserError: it can have none of the configured ones, and has no other.
        """
        table = self.run(run).run
        possible = exports.possible(table.method, table.objective)
        wanted = self.config.export.kinds
        kinds = [kind for kind in possible if kind in wanted or Path(paths.proof(run, kind)).exists()]
        if not kinds:
            why = exports.refusal(wanted[0], table.method, table.objective)
            hint = f"write one of {', '.join(possible)} under export.kinds"
            raise UserError("unsupported-export", f"{run}: {wanted[0]}", why, hint)
        return kinds

    def context(self, of: str, command: str) -> str:
        """What a script has to know that no spec says, as canonical JSON; see `contexts.context`."""
        return contexts.context(self.inputs, of, command)

    # ---- files of models

    def folder_of(self, name: str) -> str:
        """The folder of a base or a run."""
        return paths.base(name) if name in self.config.bases else paths.of(name)

    def model(self, name: str) -> str:
        """The folder that others load: a base's weights, or what a run ships."""
        return f"{self.folder_of(name)}/model"

    def merged(self, name: str) -> str:
        """The folder of a base's weights, or of the trained model: what is trained on, the reference, what is evaluated."""
        return f"{self.folder_of(name)}/{'model' if name in self.config.bases else 'merged'}"

    def manifest(self, name: str) -> str:
        """The small file that carries the weights' hashes."""
        return f"{self.folder_of(name)}/{'base' if name in self.config.bases else 'merge'}.json"

    def logprobs(self, name: str) -> str:
        """The file of the parent's log-probabilities that a run with a reference reads."""
        node = self.run(name)
        run = node.run
        form = reference_form(run.method, run.precision, run.peft_args, node.parent not in self.config.bases)
        return paths.logprobs(node.parent, run.data, run.max_length, form)

    def topk(self, name: str) -> str | None:
        """The folder of the teacher's most likely tokens that a run reads; None where the teacher is there while it trains."""
        node = self.run(name)
        run = node.run
        if not run.teacher_top_k:
            return None
        form = "" if run.precision == "auto" else f",{run.precision}"
        form += "" if run.temperature == 1 else f",temperature={text(run.temperature)}"
        return paths.topk(node.teacher, run.data, run.max_length, self._trained(run), run.teacher_top_k, form)

    # ---- files of tokens

    def tokens(self, name: str, dataset: str, max_length: int) -> str:
        """The folder of a dataset's tokens for the base that `name` descends from."""
        return paths.tokens(self.lineage(name)[0], dataset, max_length)

    def run_tokens(self, node: Node) -> str:
        """The folder of the tokens that a run trains on; Snakemake asks several times a run."""
        if node.name not in self._run_tokens:
            tokens = self.tokens(node.name, node.run.data, node.run.max_length)
            self._run_tokens[node.name] = tokens + self._trained(node.run)
        return self._run_tokens[node.name]

    def _trained(self, run: Any) -> str:
        trained = "".join(f",{key}={text(value)}" for key, value in run.settings().items() if key in TRAINED)
        return trained + (",long_rows=split" if OBJECTIVES[run.objective].splits_long_rows else "")

    def tokens_of(self, dataset: str) -> list[str]:
        """The folders of a dataset's tokens that the configured runs read."""
        nodes = [self.run(name) for name in self.config.runs]
        users = [node for node in nodes if node.run.data == dataset and not OBJECTIVES[node.run.objective].on_policy]
        return sorted(set(map(self.run_tokens, users)))

    def held_out_file(self, name: str) -> list[str]:
        """The file of a dataset's held-out rows, where a run generates completions of their prompts while it trains."""
        planned = early_stopping.plan(json.loads(self.spec(name)))
        return [paths.data(self.run(name).run.data, "validation.parquet")] if planned and planned.of_answers else []

    # ---- patterns for rules

    def pattern(self, objective: str) -> str:
        """Regular expression of the runs with this objective, for a rule's wildcard."""
        return patterns.runs(self.config, objective)

    def datasets_pattern(self, kind: str) -> str:
        """Regular expression of the datasets that a rule makes: data, online, mix, select or generate."""
        return patterns.datasets(self.config, kind)

    def bases_pattern(self, kind: str) -> str:
        """Regular expression of the bases that a rule makes: online, here or pruned."""
        return patterns.bases(self.config, kind)

    # ---- targets

    def command(self, target: str) -> str:
        """The command that builds a file under results/."""
        where = "" if self.file == "config/config.yaml" else f"--configfile {self.file} "
        return f"snakemake {where}--cores 1 {target}"

    def check_targets(self, asked: list[str]) -> list[str]:
        """Look at what a command asks for before anything is built; returns the run names in it that are not canonical.

        Raises:
            UserError: a target under results/ that names nothing, or a data file that does not exist.
        """
        return targets.check(self.inputs, asked)

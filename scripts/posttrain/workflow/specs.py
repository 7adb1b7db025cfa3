"""The spec of each result: everything that determines it, and nothing that does not.

A spec names what it is built from with that part's own hash, so any change upstream changes it. A key at its default is
not in a spec, except for the keys that were there before this rule (WRITTEN_OUT): a new key leaves finished results valid.
A changed default needs a new version of the stage.
"""

import hashlib
import json
from typing import Any

from pydantic import BaseModel

from posttrain.config import aliases, measuring
from posttrain.config.environments import own_environment
from posttrain.data.files import is_file
from posttrain.models import chat_templates
from posttrain.objectives import OBJECTIVES
from posttrain.runtime import user_code
from posttrain.workflow import judging, paths
from posttrain.workflow.inputs import Inputs, own_reward
from posttrain.workflow.names import Node

# Raised by hand when a stage's results change their meaning: results of older versions are built anew. A refactoring
# leaves its number alone, and so throws no training away. An objective's version is in its row of objectives.py.
VERSIONS = {
    "base": 2,
    "data": 4,
    "mix": 1,
    "select": 1,
    "generate": 1,
    "tokens": 3,
    "logprobs": 2,
    "topk": 1,
    "eval": 5,
    "judge": 1,
    "export": 1,
    "predict": 1,
}
VERSIONS |= {name: row.version for name, row in OBJECTIVES.items()}

# Keys that a spec has at their default too: their defaults are in the specs of finished results. No key is added to these lists; those
# of a run are in config/runs.py.
WRITTEN_OUT = {
    "base": "source package file model revision path hidden_size layers heads vocab_size seed".split(),
    "data": "path hub revision subset split format columns validation limit near_duplicates max_dropped image_folder".split(),
    "select": ["part", "margin"],
    "mix": ["weight", "limit"],
    "eval": "limit max_length max_new_tokens batch_tokens".split(),
    "suite": "kind limit max_new_tokens metrics pattern num_fewshot tasks include_path apply_chat_template files".split(),
}
# Keys that are in no spec: they change no result, or a reference with a hash stands for them.
REFERENCES = {
    "base": {"licence", "text", "of", "data", *chat_templates.KEYS},
    "data": {"licence", "from_", "select", "generated", "mix", "ratings"},
    "select": {"by"},
    "eval": {"data", "suites"},
    "suite": {"data", "by", *judging.KEYS},
}


def settings(stage: str, table: BaseModel) -> dict[str, Any]:
    """The keys of a table that a spec has.

    Args:
        stage: a key of WRITTEN_OUT.
        table: the validated table of the configuration.
    """
    left_out = set(REFERENCES.get(stage, ()))
    for key, field in type(table).model_fields.items():
        at_default = getattr(table, key) == field.get_default(call_default_factory=True)
        left_out |= {key} if at_default and key not in WRITTEN_OUT[stage] else set()
    return table.model_dump(exclude=left_out)


class Specs:
    """Specs of one configuration."""

    def __init__(self, inputs: Inputs) -> None:
        """Specs of what has these inputs."""
        self.inputs, self.lineage, self.names, self.config = inputs, inputs.lineage, inputs.names, inputs.config
        self.folder = inputs.folder
        self._texts: dict[str, str] = {}

    def text(self, target: str) -> str:
        """The spec of a run, `bases/NAME`, `data/NAME`, `MODEL/eval`, `MODEL/judge`, `RUN/export` or `MODEL/predictions/DATASET`.

        It is canonical JSON: sorted keys, nothing else.
        """
        if target not in self._texts:
            self._texts[target] = json.dumps(self._spec(target), sort_keys=True, indent=1)
        return self._texts[target]

    def sha256(self, target: str) -> str:
        """SHA-256 of the spec file of `target`."""
        return hashlib.sha256((self.text(target) + "\n").encode()).hexdigest()

    def _spec(self, target: str) -> dict[str, Any]:
        table, _, name = target.partition("/")
        if table == "bases":
            return self._base(name)
        if table == "data":
            return self._data(name)
        if name == "export":
            return self.reference(table) | {"limits": self.config.export.asked()["limits"]}
        if name.startswith("predictions/"):
            return self._predictions(table, name.removeprefix("predictions/"))
        if name == "judge":
            return self._judging(table)
        return self._evaluation(table) if name == "eval" else self._run(self.names.run(target))

    def _base(self, name: str) -> dict[str, Any]:
        base = self.config.bases[name]
        made_of = {"text": self._reference("data", base.text)} if base.source == "random" else {}
        if base.source == "pruned":
            made_of = {"of": self._reference("bases", base.of), "drop": base.drop}
            made_of |= {"data": self._reference("data", base.data)} if base.data else {}
        return _stage("base") | settings("base", base) | made_of | chat_templates.settings(base, self.folder)

    def _data(self, name: str) -> dict[str, Any]:
        table = self.config.datasets[name]
        if table.mix:
            parts = [self._reference("data", part) | settings("mix", take) for part, take in table.mix.items()]
            return _stage("mix") | {"mix": parts}
        if table.select:
            by = self._model(self.names.selector(name))
            whole = self._reference("data", table.from_)
            return _stage("select") | settings("select", table.select) | {"from": whole, "by": by}
        if table.generated:
            writer = self.names.writer(name)
            made_of = {"from": self._reference("data", table.from_), "by": self._model(writer)}
            return _stage("generate") | made_of | {"predictions": self.sha256(f"{writer}/predictions/{table.from_}")}
        if table.ratings:
            file = paths.ratings(table.ratings, "preferences.jsonl")
            table = table.model_copy(update={"path": file, "format": "preference"})
        return _stage("data") | settings("data", table)

    def _run(self, node: Node) -> dict[str, Any]:
        return (
            _stage(node.run.objective)
            | node.run.settings()
            | {"tokens": VERSIONS["tokens"]}
            | {"from": self._model(node.parent), "data": self._reference("data", node.run.data)}
            | self._reward(node)
            | ({"teacher": self._model(node.teacher)} if node.teacher else {})
            | self._metric(node)
            | self._environment(node.run.environment)
        )

    def _reward(self, node: Node) -> dict[str, Any]:
        """The reward with the specs of the runs that it comes from; a function of the user's has its files' hashes."""
        reward = node.run.reward
        if reward is None:
            return {}
        if reward.function:
            own = own_reward(node.run)
            return {"reward": {"function": reward.function, "sha256": self._hashes(own) if own else []}}
        judges = dict(zip(("from", "sequence"), map(self._model, node.judges), strict=False))
        if reward.kind == "implicit":
            judged = self.names.run(node.judges[0])
            judges |= {"beta": judged.run.settings()["beta"], "reference": self._model(judged.parent)}
        return {"reward": {"kind": reward.kind} | judges}

    def _metric(self, node: Node) -> dict[str, Any]:
        """How a run stops early by a metric of the user's own, with the hashes of the metric's files."""
        function = measuring.own_metric(node.run)
        table = node.run.settings()["early_stopping"] if function else {}
        return {"early_stopping": table | {"sha256": self._hashes(function)}} if function else {}

    def _environment(self, name: str | None) -> dict[str, Any]:
        """The hashes of the files of an environment of the user's."""
        own = own_environment(name)
        return {"environment_sha256": self._hashes(own)} if own else {}

    def _evaluation(self, name: str) -> dict[str, Any]:
        data = [self._reference("data", dataset) for dataset in self.inputs.evaluation_data]
        against = [self._model(other) for other in self.lineage.others(name)]
        suites = {} if self.names.is_reward(name) else self._suites()
        references = {"model": self._model(name), "data": data, "against": against}
        return _stage("eval") | settings("eval", self.config.evaluation) | references | {"suites": suites}

    def reference(self, name: str) -> dict[str, Any]:
        """What determines what the unquantised model says for the proofs of a run's exports: their spec but for the limits."""
        node = self.names.run(name)
        suites = {} if self.names.is_reward(name) else self._suites()
        asked = {key: suite for key, suite in suites.items() if _is_asked_of_exports(suite)}
        table = self.config.evaluation
        return (
            _stage("export")
            | {"rows": self.config.export.rows, "max_length": table.max_length, "max_new_tokens": table.max_new_tokens}
            | {"objective": node.run.objective, "method": node.run.method}
            | {"model": self._model(node.name), "data": self._reference("data", self._held_out(node)), "suites": asked}
        )

    def exported_data(self, name: str) -> list[str]:
        """The datasets whose held-out rows the proofs of a run's exports use."""
        asked = self.reference(name)
        return list(
            dict.fromkeys(
                [asked["data"]["name"], *(row["data"]["name"] for row in asked["suites"].values() if "data" in row)]
            )
        )

    def _held_out(self, node: Node) -> str:
        """The dataset whose held-out rows a run's exports are measured on: its own; of a selected part, the whole."""
        return self.config.datasets[node.run.data].from_ or node.run.data

    def _predictions(self, model: str, dataset: str) -> dict[str, Any]:
        """Completions are generated as the evaluation generates them; settings that `predictions` leaves out are its own."""
        asked, measured = self.config.predictions, self.config.evaluation
        return _stage("predict") | {
            "model": self._model(model),
            "data": self._reference("data", dataset),
            "limit": asked.limit,
            "max_new_tokens": asked.max_new_tokens or measured.max_new_tokens,
            "precision": asked.precision or measured.precision,
            "repetition_penalty": measured.repetition_penalty,
        }

    def _suites(self) -> dict[str, dict[str, Any]]:
        """The configured suites, with the evaluation's own limits where they set none."""
        suites = {}
        for name, suite in self.config.evaluation.suites.items():
            values = {aliases.SUITE.get(key, key): value for key, value in settings("suite", suite).items()}
            for key in ("limit", "max_new_tokens"):
                if key in values and values[key] is None:
                    values[key] = getattr(self.config.evaluation, key)
            if hasattr(suite, "data"):
                values["data"] = self._reference("data", suite.data)
            if suite.kind == "reward":
                values["by"] = self._model(self.names.model(suite.by))
            if suite.kind == "generation" and suite.own_metrics:
                values["sha256"] = {metric: self._hashes(metric) for metric in suite.own_metrics}
            if suite.kind == "environment":
                values |= self._environment(suite.environment)
            if suite.kind == "cases":
                values["sha256"] = self._file_hash(suite.path)
            suites[name] = values
        return suites

    def _judging(self, name: str) -> dict[str, Any]:
        """What is judged, by whom and how: who answered, who judges, the instruction and the answers' specs."""
        suites = {}
        for pair in judging.pairs(self.lineage, name):
            suite = pair.suite
            against = {"name": pair.other, "eval": self.sha256(f"{pair.other}/eval")}
            values = {"against": against}
            if pair.judge:
                computed = self.config.evaluation.model_dump(include={"precision", "batch_tokens"})
                values |= {"by": self._model(pair.judge)} | computed
            else:
                values["endpoint"] = suite.endpoint.model_dump(include={"base_url", "model", "max_tokens"})
            if suite.instruction:
                values["instruction"] = self._file_hash(suite.instruction)
            if pair.related:
                values["related"] = pair.related
            suites[pair.name] = values
        return _stage("judge") | {"eval": self.sha256(f"{name}/eval"), "suites": suites}

    def _file_hash(self, file: str) -> str | None:
        return hashlib.sha256((self.folder / file).read_bytes()).hexdigest() if is_file(self.folder / file) else None

    def _hashes(self, function: str) -> list[str]:
        """SHA-256 of the file of a function of the user's, and of those that it imports."""
        files = [self.folder / file for file in user_code.files(function, self.folder)]
        return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files if is_file(file)]

    def _model(self, name: str) -> dict[str, str]:
        return (
            self._reference("bases", name) if name in self.config.bases else {"name": name, "spec": self.sha256(name)}
        )

    def _reference(self, table: str, name: str) -> dict[str, str]:
        return {"name": name, "spec": self.sha256(f"{table}/{name}")}


def _is_asked_of_exports(suite: dict[str, Any]) -> bool:
    return suite["kind"] == "cases" or (suite["kind"] == "generation" and not suite["shots"])


def _stage(stage: str) -> dict[str, Any]:
    return {"stage": stage, "version": VERSIONS[stage]}

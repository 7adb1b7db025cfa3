"""What stages read besides their parents: the user's files, and the datasets and reward models of an evaluation."""

from functools import cached_property
from pathlib import Path

from posttrain.config import measuring
from posttrain.config.environments import own_environment
from posttrain.config.runs import Run
from posttrain.data.files import expand
from posttrain.models import chat_templates
from posttrain.runtime import user_code
from posttrain.workflow import paths
from posttrain.workflow.lineage import Lineage


class Inputs:
    """Files, datasets and reward models by the stage that reads them."""

    def __init__(self, lineage: Lineage, file: str, folder: Path) -> None:
        """Inputs of the configuration `file`, whose relative paths belong to `folder`."""
        self.lineage, self.names, self.config = lineage, lineage.names, lineage.config
        self.file, self.folder = file, folder
        self.suites = self.config.evaluation.suites

    # ---- files of the user's

    def sources(self, dataset: str) -> list[str]:
        """The local files that a dataset's own rows are read from."""
        table = self.config.datasets[dataset]
        if table.ratings:
            return [paths.ratings(table.ratings, "preferences.jsonl")]
        given = [path for path in (table.path, table.validation) if isinstance(path, str)]
        return [str(file) for path in given for file in expand(path, self.folder)]

    def template(self, base: str) -> list[str]:
        """The file with a base's chat template, where there is one."""
        template = self.config.bases[base].chat_template
        return [template] if template and template not in chat_templates.shipped() else []

    def reward_function(self, name: str) -> list[str]:
        """The files with a run's reward function and its environment, where they are the user's, and the files that these import."""
        run = self.names.run(name).run
        own = filter(None, (own_reward(run), own_environment(run.environment)))
        return list(dict.fromkeys(str(file) for code in own for file in user_code.files(code, self.folder)))

    def metric(self, name: str) -> list[str]:
        """The file with a metric that is measured while a run trains, where there is one, and what it imports."""
        function = measuring.own_metric(self.names.run(name).run)
        return [str(file) for file in user_code.files(function, self.folder)] if function else []

    @property
    def ratings(self) -> list[str]:
        """The files that raters exported."""
        return [str(file) for path in self.config.ratings for file in expand(path, self.folder)]

    # ---- what an evaluation reads

    @cached_property
    def evaluation_data(self) -> list[str]:
        """The datasets whose held-out rows every model is measured on; of a selected part, the whole."""
        tables, asked = self.config.datasets, self.config.evaluation
        used = {tables[run.data].from_ or run.data for run in self.config.runs.values()}
        inside = sorted(used or tables) if asked.data is None else asked.data
        return [*inside, *(name for name in asked.outside if name not in inside)]

    @cached_property
    def held_out_data(self) -> list[str]:
        """The datasets whose held-out rows some model is measured on, by suites as well."""
        suites = [suite.data for suite in self.suites.values() if hasattr(suite, "data")]
        return list(dict.fromkeys([*self.evaluation_data, *suites]))

    def suite_data(self, *kinds: str) -> list[str]:
        """The datasets of the suites of these kinds."""
        return list(dict.fromkeys(suite.data for suite in self.suites.values() if suite.kind in kinds))

    @property
    def shots_data(self) -> list[str]:
        """The datasets whose training rows are worked examples in suites."""
        suites = self.suites.values()
        return list(dict.fromkeys(suite.data for suite in suites if suite.kind == "generation" and suite.num_fewshot))

    @cached_property
    def evaluation_rewards(self) -> list[str]:
        """The reward runs that score completions in suites."""
        return [
            self.names.reward_model(f"evaluation.suites.{name}.by", suite.by)
            for name, suite in self.suites.items()
            if suite.kind == "reward"
        ]

    def foreign_rewards(self, name: str) -> dict[str, str]:
        """The reward suites that measure a model and whose reward model has another base: that base, by the suite's name."""
        suites = {} if self.names.is_reward(name) else self.suites
        own = self.lineage.line(name)[0]
        bases = {key: self.lineage.line(suite.by)[0] for key, suite in suites.items() if suite.kind == "reward"}
        return {key: base for key, base in bases.items() if base != own}

    @property
    def suite_files(self) -> list[str]:
        """The files that suites read: prompts, cases, task files, metrics."""
        files = []
        for suite in self.suites.values():
            own = suite.own_metrics if suite.kind == "generation" else []
            files += [str(file) for metric in own for file in user_code.files(metric, self.folder)]
            acts = own_environment(suite.environment) if suite.kind == "environment" else None
            files += [str(file) for file in user_code.files(acts, self.folder)] if acts else []
            files += (suite.files or []) if suite.kind == "safety" else []
            files += [suite.path] if suite.kind == "cases" else []
            folder = self.folder / suite.include_path if suite.kind == "tasks" and suite.include_path else None
            files += [str(file) for file in sorted(folder.rglob("*")) if file.is_file()] if folder else []
        return files


def own_reward(run: Run) -> str | None:
    """The reward function of the user's own, `FILE.py:NAME`, of a run that has one."""
    function = run.reward.function if run.reward else None
    return function if function and user_code.is_own(function) else None

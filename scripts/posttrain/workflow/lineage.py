"""What models and datasets are made from: parents, reward models, selectors, licences along the way, and a build order."""

from collections.abc import Iterable
from typing import Any

from posttrain.config.project_file import Config
from posttrain.workflow.names import Names, Node


class Lineage:
    """The graph of bases, runs and datasets."""

    def __init__(self, names: Names) -> None:
        """The graph of the runs that `names` resolves."""
        self.names, self.config = names, names.config
        self._chains: dict[str, dict[str, list[str]]] = {}

    def line(self, name: str) -> list[str]:
        """The base, the runs after it in their order, and `name` itself at the end."""
        if name in self.config.bases:
            return [name]
        node = self.names.run(name)
        return [*self.line(node.parent), node.name]

    def others(self, name: str) -> list[str]:
        """The models that `name` is compared with: parent, base and teacher; a reward model has none of its kind among them."""
        if self.names.is_reward(name):
            return []
        line = self.line(name)
        if len(line) == 1:
            return []
        teacher = self.names.run(name).teacher
        return list(dict.fromkeys([*line[-2:-1], *line[:1], *([teacher] if teacher else [])]))

    def parents_first(self, names: Iterable[str]) -> list[str]:
        """Models and all that they are built from, each after those: bases, and runs by their canonical names."""
        order: dict[str, None] = {}

        def visit(name: str) -> None:
            name = self.names.model(name)
            if name not in order:
                for other in [] if name in self.config.bases else self.names.run(name).models:
                    visit(other)
                order[name] = None

        for name in names:
            visit(name)
        return list(order)

    def all_runs(self) -> list[str]:
        """Canonical names of the configured runs and of all that they are built from, parents first."""
        return [name for name in self.parents_first(self.config.runs) if name not in self.config.bases]

    # ---- licences

    def chains(self, node: Node) -> dict[str, list[str]]:
        """Every base and dataset that a run is built on, such as `datasets.chats`, to what leads from there to the run."""
        if node.name not in self._chains:
            chains = self._parts(node)
            for other in node.models:
                if other not in self.config.bases:
                    for part, chain in self.chains(self.names.run(other)).items():
                        chains.setdefault(part, [*chain, node.name])
            self._chains[node.name] = chains
        return self._chains[node.name]

    def licences(self, node: Node) -> dict[str, str | None]:
        """What the configuration says of the licence of every base and dataset that a run is built on."""
        return {part: self.table(part).licence for part in self.chains(node)}

    def dataset_licences(self, dataset: str) -> dict[str, str | None]:
        """What the configuration says of the licence of every dataset whose rows these are."""
        return {f"datasets.{name}": self.config.datasets[name].licence for name in origins(self.config, dataset)}

    def table(self, part: str) -> Any:
        """The configuration of a part, such as `datasets.chats`."""
        table, name = part.split(".")
        return getattr(self.config, table)[name]

    def _parts(self, node: Node) -> dict[str, list[str]]:
        """What a run itself uses: its rows, and its base and its teacher where they are bases; of a random base, its text."""
        chains = self._rows(node.run.data, [node.name])
        for name in (node.teacher, node.writer, node.parent):
            if name in self.config.bases:
                chains = self._base(name, [node.name]) | chains
        return chains

    def _base(self, name: str, chain: list[str]) -> dict[str, list[str]]:
        """What a base is made of, each with what leads from there to the run."""
        base = self.config.bases[name]
        if base.source == "random":
            return self._rows(base.text, [f"bases.{name}", *chain])
        if base.source == "pruned":
            return self._base(base.of, [f"bases.{name}", *chain])
        return {f"bases.{name}": chain}

    def teachers(self, name: str) -> list[str]:
        """The bases of the models that a run and its parents learnt from, as teachers or from what they wrote."""
        found: list[str] = []
        for run in self.line(name)[1:]:
            node = self.names.run(run)
            found += [self.origin(other) for other in (node.teacher, node.writer) if other]
        return list(dict.fromkeys(found))

    def origin(self, name: str) -> str:
        """The base that a model descends from; of a pruned one, the whole."""
        base = self.line(name)[0]
        while self.config.bases[base].source == "pruned":
            base = self.config.bases[base].of
        return base

    def _rows(self, dataset: str, chain: list[str]) -> dict[str, list[str]]:
        parts = origins(self.config, dataset)
        chain = chain if parts == [dataset] else [f"datasets.{dataset}", *chain]
        return {f"datasets.{part}": chain for part in parts}


def origins(config: Config, dataset: str) -> list[str]:
    """The datasets, read from files, that a dataset's rows come from."""
    table = config.datasets[dataset]
    return [table.from_] if table.from_ else list(table.mix or [dataset])

"""The graph of a plan's jobs: order, what is shared, what is there, its pictures."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from posttrain.models.machine import Memory
from posttrain.planning import jobs, picture
from posttrain.planning.plan import Plan, Planned
from posttrain.planning.timing import Estimate
from posttrain.provenance.dry_run import Job


def job(rule: str, name: str, inputs: list[str], *outputs: str) -> Job:
    return Job(
        rule,
        [f"results/{file}" for file in outputs],
        "",
        [f"results/{file}" for file in inputs],
        "",
        f"results/logs/{rule}/{name}.log",
    )


def run(name: str, parent: str) -> list[Job]:
    merged = f"bases/{parent}/model" if parent == "tiny" else f"{parent}/merged"
    return [
        job("eval", name, [f"{name}/merged", f"{parent}/eval.json"], f"{name}/eval.json"),
        Job("spec", [f"results/{name}/spec.json"], ""),
        job("merge", name, [f"{name}/trained", merged], f"{name}/merged"),
        job("sft", name, [f"{name}/spec.json", merged, "data/chats/train.parquet"], f"{name}/trained"),
    ]


JOBS = [
    *run("sft", "tiny"),
    *run("dpo", "sft"),
    *run("dpo,rank=4", "sft"),
    Job("all", [], "", ["results/dpo/eval.json"]),
]


@pytest.fixture
def graph(in_folder) -> jobs.Graph:
    """Two children of one run, whose base and data are there."""
    for file in ("bases/tiny/model/config.json", "data/chats/train.parquet"):
        path = Path("results", file)
        path.parent.mkdir(parents=True)
        path.touch()
    return jobs.graph(JOBS)


def test_each_job_stands_after_those_that_it_needs(graph):
    assert graph.names == [
        "sft/sft", "merge/sft", "eval/sft", "sft/dpo", "merge/dpo", "eval/dpo", "sft/dpo,rank=4", "merge/dpo,rank=4",
        "eval/dpo,rank=4",
    ]  # fmt: skip
    assert all(need < place for place, needs in enumerate(graph.needs) for need in needs)


def test_what_is_read_and_not_made_is_there_already(graph):
    assert graph.there == ["bases/tiny", "data/chats"]


def test_what_two_results_need_is_shared(graph):
    assert [graph.names[end] for end in graph.ends()] == ["eval/dpo", "eval/dpo,rank=4"]
    assert dict(zip(graph.names, graph.sharing(), strict=True)) == {
        name: 2 if name.endswith("/sft") else 1 for name in graph.names
    }


def test_the_longest_chain_is_what_no_number_of_machines_makes_shorter(graph):
    assert graph.longest([10.0, 1.0, 5.0, 20.0, 1.0, 5.0, 30.0, 1.0, 5.0]) == 10 + 1 + 30 + 1 + 5
    assert jobs.graph([]).longest([]) == 0


def planned(graph: jobs.Graph) -> Plan:
    of = zip(graph.names, graph.jobs, graph.results, graph.needs, graph.reads, strict=True)
    rows = [
        Planned(
            name,
            one.rule,
            result,
            Estimate(60.0, 30.0, 90.0, "record", ""),
            1e9,
            1e6,
            0,
            1,
            [graph.names[need] for need in needs],
            reads,
        )
        for name, one, result, needs, reads in of
    ]
    return Plan([], rows, graph.there, 0, 0, Memory("cpu", "m", 1, 1, True), 1, 1, 1.0, True, None, "EUR")


def test_mermaid_has_a_node_for_each_result_and_no_edge_that_others_stand_for(graph):
    lines = picture.mermaid(planned(graph)).splitlines()
    assert lines[0] == "flowchart LR" and lines[-1].strip().startswith("classDef")
    names = dict(re.findall(r'    (n\d+)\["(.*?)<br/>', "\n".join(lines)))
    assert set(names.values()) == {
        "sft",
        "sft/eval",
        "dpo",
        "dpo/eval",
        "dpo,rank=4",
        "dpo,rank=4/eval",
        "bases/tiny",
        "data/chats",
    }
    assert '    n0["sft<br/>sft, merge: 2 min"]' in lines
    edges = {(names[one], names[other]) for one, other in re.findall(r"(n\d+) --> (n\d+)", "\n".join(lines))}
    assert edges == {
        ("sft", "sft/eval"), ("sft", "dpo"), ("sft", "dpo,rank=4"), ("dpo", "dpo/eval"), ("dpo,rank=4", "dpo,rank=4/eval"),
        ("bases/tiny", "sft"), ("data/chats", "sft"),
        ("sft/eval", "dpo/eval"), ("sft/eval", "dpo,rank=4/eval"),
    }  # fmt: skip


def test_of_hundreds_of_runs_those_that_differ_in_overrides_only_are_one_node(in_folder):
    many = [*run("sft", "tiny"), *(one for i in range(100) for one in run(f"dpo,rank={i}", "sft"))]
    text = picture.mermaid(planned(jobs.graph(many)))
    assert '"dpo (100)<br/>sft, merge: 3 h 20 min"' in text and text.count("-->") == 4


def test_the_svg_has_each_model_with_its_time(project, graph):
    root = ElementTree.fromstring(picture.svg(project, planned(graph)))
    texts = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts == [
        "tiny", "base: there already", "sft", "sft, lora: 3 min", "dpo", "dpo, lora: 3 min", "dpo", "rank=4: 3 min",
    ]  # fmt: skip

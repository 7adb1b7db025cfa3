"""The graph of runs: edges go from left to right, nodes do not cover each other, and long names fit."""

import re

from posttrain.reports import graph_layout


def model(name: str, parent: str | None = None, also=()) -> dict:
    kind = "run" if parent else "base"
    return {"name": name, "kind": kind, "parent": parent, "also": list(also), "objective": "dpo", "method": "lora"}


CHAIN = [model("base"), model("sft", "base"), model("ppo", "sft", ["reward"]), model("reward", "sft"), model("dpo", "sft")]  # fmt: skip


def placed(models: list[dict]) -> dict[str, dict]:
    return {node["name"]: node for node in graph_layout.layout(models)["nodes"]}


def test_every_edge_goes_from_left_to_right_rewards_included_whatever_the_order():
    found = placed(CHAIN)
    assert found["base"]["x"] < found["sft"]["x"] < found["reward"]["x"] < found["ppo"]["x"]
    assert found["reward"]["x"] == found["dpo"]["x"]
    edges = graph_layout.layout(CHAIN)["edges"]
    assert [edge["kind"] for edge in edges].count("reward") == 1
    assert len(edges) == 5
    for edge in edges:
        start, *_, end = re.findall(r"[MH](\d+)", edge["path"])
        assert int(start) < int(end)


def test_no_two_nodes_cover_each_other_and_all_are_inside_the_picture():
    models = [model("base"), model("other")]
    models += [model(f"sft_{i}", "base" if i % 2 else "other") for i in range(8)]
    models += [model(f"dpo_{i}", f"sft_{i % 8}", [f"sft_{(i + 1) % 8}"]) for i in range(40)]
    found = graph_layout.layout(models)
    boxes = [
        (node["x"], node["y"], node["x"] + node["width"], node["y"] + graph_layout.HEIGHT) for node in found["nodes"]
    ]
    assert all(right <= found["width"] and bottom <= found["height"] for _, _, right, bottom in boxes)
    for i, (left, top, right, bottom) in enumerate(boxes):
        assert not any(
            left < other[2] and other[0] < right and top < other[3] and other[1] < bottom for other in boxes[:i]
        )


def test_what_hundreds_start_from_is_seen_at_the_top():
    models = [model("base"), *(model(f"sft_{i}", "base") for i in range(200))]
    assert placed(models)["base"]["y"] < 4 * (graph_layout.HEIGHT + graph_layout.GAP)


def test_a_node_says_its_overrides_else_objective_and_method_and_a_long_line_ends_in_dots():
    long = "dpo,learning_rate=0.0001,max_length=2048,rank=16"
    found = placed([model("base"), model("dpo", "base"), model(long, "base")])
    assert found["base"]["lines"] == ["base", "base"]
    assert found["dpo"]["lines"] == ["dpo", "dpo, lora"]
    assert found[long]["lines"] == ["dpo", "learning_rate=0.0001, max_len…"]


def test_a_narrow_screen_gets_nested_lists():
    (base,) = graph_layout.tree(CHAIN)
    (sft,) = base["children"]
    assert [(node["name"], node["also"]) for node in sft["children"]] == [
        ("ppo", ["reward"]),
        ("reward", []),
        ("dpo", []),
    ]

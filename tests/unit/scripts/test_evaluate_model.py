"""Margins, samples, and the metrics and verdicts of eval.json; the whole script on a random tiny model."""

import json
import math
from argparse import Namespace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import refused, write_rows

import evaluate_model
import tokenize_data
from evaluate_model import add_margins, read_examples, summarise, write_examples
from posttrain.data.rows import normalise
from posttrain.data.tokens import tokenise
from posttrain.evaluation import safety, suites
from posttrain.evaluation.candidate import Asked
from posttrain.evaluation.example_scores import clusters, key, measured
from posttrain.inference import scoring
from posttrain.models import loading
from posttrain.reports import domains
from posttrain.runtime import atomic, hashes

# ---- margins, metrics, verdicts


def preference(id: str, chosen: float, rejected: float) -> dict:
    row = {"suite": "", "dataset": "pairs", "id": id, "chosen_log_prob": chosen, "rejected_log_prob": rejected}
    return row | {"prefers_chosen": float(chosen > rejected)}


def by_id(rows: list[dict]) -> dict:
    return {key(row): row for row in rows}


def test_a_margin_is_against_the_parent_which_comes_first():
    ours = [preference("a", -5, -4), preference("b", -5, -4), preference("c", -5, -4)]
    parent = [preference("a", -8, -4), preference("b", -5, -9), preference("c", -5, -4)]
    base = [preference("a", 0, -100), preference("b", 0, -100)]
    add_margins(ours, {"sft": by_id(parent), "base": by_id(base)})
    assert [row["margin_prefers_chosen"] for row in ours] == [1, 0, 0.5]
    assert [row["margin"] for row in ours] == [3, -5, 0]
    assert all(row["prefers_chosen"] == 0 for row in ours)


def test_a_base_and_rows_that_are_no_pairs_have_no_margin():
    ours = [preference("a", -5, -4)]
    add_margins(ours, {})
    chat = {"suite": "", "dataset": "chats", "id": "a", "log_prob": -5.0, "tokens": 5.0}
    add_margins([chat], {"sft": by_id([chat])})
    assert "margin_prefers_chosen" not in ours[0] | chat


def chat(id: str, log_prob: float, exact: float | None = None) -> dict:
    row = {"suite": "", "dataset": "chats", "id": id, "log_prob": log_prob, "tokens": 10.0}
    return row if exact is None else row | {"exact_match": exact, "format_followed": 1.0}


def test_a_metric_is_measured_on_the_examples_that_have_it():
    examples = [chat("a", -10.0, 1.0), chat("b", -20.0, 0.0), chat("c", -30.0), preference("d", -1, -2)]
    metrics = summarise(examples, {})["metrics"]
    assert {name: row["n"] for name, row in metrics.items()} == {
        "perplexity": 3, "preference_accuracy": 1, "exact_match": 2, "format_followed": 2,
    }  # fmt: skip
    assert metrics["perplexity"]["value"] == pytest.approx(math.exp(60 / 30))
    assert (metrics["exact_match"]["value"], metrics["preference_accuracy"]["value"]) == (0.5, 1.0)


def test_a_users_metric_is_a_share_only_where_each_is_right_or_wrong():
    def kind(*values: float) -> tuple[bool, bool]:
        rows = [chat(str(i), -1.0) | {"accuracy": value, "prefers_chosen": value} for i, value in enumerate(values)]
        found = {name: metric for name, metric, _ in measured(rows)}
        return found["accuracy"].share, found["preference_accuracy"].share

    assert kind(0.0, 1.0) == (True, True)
    assert kind(0.0, 0.5) == (False, True)  # a tie of a preference


def test_verdicts_are_on_the_same_examples_whatever_their_order():
    ours = [chat(str(i), -10.0 - i) for i in range(30)]
    worse = [chat(str(i), -11.0 - i) for i in reversed(range(30))]
    against = summarise(ours, {"worse": by_id(worse), "same": by_id(ours)})["against"]
    assert against["worse"]["perplexity"]["verdict"] == "better"
    assert against["worse"]["perplexity"]["difference"] < 0
    assert against["same"]["perplexity"] == {
        "difference": 0, "low": 0, "high": 0, "p": 1, "verdict": "no evidence", "detectable": 0,
    }  # fmt: skip


def test_rows_of_one_prompt_are_one_cluster_and_the_number_is_said():
    ours = [chat(str(i), -10.0 - i % 3) | {"prompt_group": str(i // 3)} for i in range(36)]
    worse = [row | {"log_prob": row["log_prob"] - 1} for row in ours]
    result = summarise(ours, {"worse": by_id(worse)})
    assert (result["metrics"]["perplexity"]["n"], result["metrics"]["perplexity"]["clusters"]) == (36, 12)
    assert result["against"]["worse"]["perplexity"]["verdict"] == "better"
    few = summarise(ours[:27], {"worse": by_id(worse)})["against"]["worse"]["perplexity"]  # 9 prompts
    assert (few["verdict"], few["detectable"]) == ("no evidence", None)


def test_a_prompt_that_stands_in_two_datasets_is_one():
    rows = [
        chat("a", -1) | {"prompt_group": "p"},
        chat("b", -1) | {"dataset": "other", "prompt_group": "p"},
        chat("c", -1),
    ]
    assert clusters(rows).tolist() == [0, 0, 1]
    assert clusters([chat("a", -1), chat("b", -1)]) is None


def test_the_margin_accuracy_is_measured_and_never_compared():
    ours = [preference(str(i), -4, -5) for i in range(5)]
    others = {"sft": by_id([preference(str(i), -5, -5) for i in range(5)])}
    add_margins(ours, others)
    result = summarise(ours, others)
    assert result["metrics"]["preference_margin_accuracy"]["value"] == 1.0
    assert result["metrics"]["preference_margin"]["value"] == 1.0
    assert set(result["against"]["sft"]) == {"preference_accuracy"}


def test_examples_read_back_with_null_where_a_column_does_not_apply(in_folder):
    examples = [chat("a", -10.0, 1.0), preference("b", -1, -2)]
    write_examples(Path("results/sft/eval/examples.parquet"), examples)
    rows = read_examples(Path("results/sft/eval/examples.parquet"))
    assert {key: value for key, value in rows["", "chats", "a"].items() if value is not None} == examples[0]
    assert rows["", "pairs", "b"]["chosen_log_prob"] == -1
    assert rows["", "pairs", "b"]["log_prob"] is None


# ---- the script


@pytest.fixture
def evaluate(in_folder, chats, random_tiny_folder, random_tiny_tokenizer, fp32):
    """Evaluate the random tiny model under a name, on conversations with and without a final number and on pairs."""
    pairs = [
        normalise({"prompt": prompt, "chosen": "good", "rejected": "very bad"}, "preference", {}, "row")
        for prompt in "abc"
    ]
    rated = [
        normalise({"prompt": prompt, "completion": "so", "label": prompt == "a"}, "unpaired_preference", {}, "row")
        for prompt in "ab"
    ]
    datasets = {
        "sums": ("messages", chats[:2]),
        "chats": ("messages", chats[2:]),
        "pairs": ("preference", pairs),
        "rated": ("unpaired_preference", rated),
    }
    for name, (shape, rows) in datasets.items():
        write_rows(Path(f"results/data/{name}/validation.parquet"), rows, shape)
        atomic.write_json(Path(f"results/data/{name}/data.json"), {"shape": shape})
        folder = Path(f"tokens/{name},max_length=256")
        encoded, _ = tokenise(random_tiny_tokenizer, rows, shape, 256)
        atomic.write_json(folder / "report.json", {"shape": shape})
        pq.write_table(pa.Table.from_pylist(encoded, schema=tokenize_data.schema(shape)), folder / "validation.parquet")

    def run(
        name: str,
        against: tuple[str, ...] = (),
        limit: int = 100,
        model: Path = random_tiny_folder,
        suites: dict | None = None,
        manifest: Path = random_tiny_folder / "config.json",
        shipped: Path = random_tiny_folder,
        **settings,
    ) -> dict:
        spec = {
            "suites": suites or {},
            "data": [{"name": data} for data in datasets],
            "against": [{"name": other} for other in against],
        }
        spec |= {"limit": limit, "max_length": 256, "max_new_tokens": 4, "batch_tokens": 512} | settings
        atomic.write_json(Path(f"results/{name}/eval/spec.json"), spec)
        output = Path(f"results/{name}/eval.json")
        options = {
            "spec": Path(f"results/{name}/eval/spec.json"),
            "model": model,
            "shipped": shipped,
            "manifest": manifest,
            "tokens": Path("tokens"),
            "data": [folder for folder in Path("results/data").glob("*") if folder.is_dir()],
            "others": [Path(f"results/{other}/eval/examples.parquet") for other in against],
            "reward_models": [Path("results/judge")],
            "examples": None,
        }
        evaluate_model.main(Namespace(**options, output=output))
        return json.loads(output.read_text())

    return run


def test_a_base_gets_every_metric_that_needs_no_parent(evaluate):
    result = evaluate("base")
    assert {name: row["n"] for name, row in result["metrics"].items()} == {
        "perplexity": 4, "byte_perplexity": 4, "preference_accuracy": 3,
        "exact_match": 2, "exact_match_lenient": 2, "format_followed": 2,
    }  # fmt: skip
    assert (result["run"], result["against"]) == ("base", {})
    assert result["spec"] == hashes.sha256(Path("results/base/eval/spec.json"))
    assert result["metrics"]["perplexity"]["value"] == pytest.approx(384, rel=0.2)  # the vocabulary, of a random model
    rows = read_examples(Path("results/base/eval/examples.parquet"))
    asked = [row for (_, data, _), row in rows.items() if data == "sums"]
    assert all(row["prompt"] and row["reference"] and row["output"] is not None for row in asked)


def test_some_answers_of_every_dataset_of_conversations_are_there_to_be_read(evaluate):
    evaluate("base", answers=1)
    rows = read_examples(Path("results/base/eval/examples.parquet"))
    answered = [(data, row) for (_, data, _), row in rows.items() if row["output"] is not None]
    assert sorted(data for data, _ in answered) == ["chats", "pairs", "rated", "sums", "sums"]  # sums: all are measured
    assert {row["reference"] for data, row in answered if data == "pairs"} == {"good"}
    assert all(row["prompt"] for _, row in answered)
    assert all(row["exact_match"] is None for data, row in answered if data != "sums")
    evaluate(
        "asked", suites={"say": suite("generation", data={"name": "pairs"}, metrics=["chrf"], shots=0, pattern=None)}
    )
    answered = [
        key[:2]
        for key, row in read_examples(Path("results/asked/eval/examples.parquet")).items()
        if row["output"] is not None
    ]
    assert ("", "pairs") not in answered and ("say", "pairs") in answered and ("", "chats") in answered
    evaluate("without", answers=0)
    assert {
        data
        for (_, data, _), row in read_examples(Path("results/without/eval/examples.parquet")).items()
        if row["output"] is not None
    } == {"sums"}


def test_every_metric_is_there_by_dataset(evaluate):
    result = evaluate("base")
    found = {name: {metric: row["n"] for metric, row in rows.items()} for name, rows in result["by_dataset"].items()}
    likelihood = {"perplexity": 2, "byte_perplexity": 2}
    assert found == {
        "sums": likelihood | {"exact_match": 2, "exact_match_lenient": 2, "format_followed": 2},
        "chats": likelihood,
        "pairs": {"preference_accuracy": 3},
        "rated": {},
    }
    rows = [
        row
        for (_, data, _), row in read_examples(Path("results/base/eval/examples.parquet")).items()
        if data == "chats"
    ]
    log_prob, tokens = (sum(row[name] for row in rows) for name in ("log_prob", "tokens"))
    assert result["by_dataset"]["chats"]["perplexity"]["value"] == pytest.approx(math.exp(-log_prob / tokens))
    assert "by_part" not in result


def test_a_model_is_compared_inside_and_outside_of_its_domain(evaluate):
    evaluate("base")
    result = evaluate("run", ("base",), outside=["sums"])
    inside, outside = (result["by_domain"][place] for place in ("inside", "outside"))
    assert (inside["data"], outside["data"]) == (["chats", "pairs", "rated"], ["sums"])
    assert outside["metrics"] == result["by_dataset"]["sums"]
    assert inside["metrics"]["perplexity"] == result["by_dataset"]["chats"]["perplexity"]
    for place in (inside, outside):
        assert place["against"]["base"]["perplexity"]["difference"] == 0
    assert result["against"]["base"].keys() == inside["against"]["base"].keys() | outside["against"]["base"].keys()
    assert any(line.startswith("outside the domain (sums): run against base") for line in domains.lines(result))


def test_a_mixture_is_measured_by_part_as_well(evaluate):
    atomic.write_json(
        Path("results/data/pairs/data.json"),
        {"parts": {"one": {"train": 0, "validation": 2}, "two": {"train": 5, "validation": 1}}},
    )
    result = evaluate("base")
    parts = {part: rows["preference_accuracy"]["n"] for part, rows in result["by_part"]["pairs"].items()}
    assert parts == {"one": 2, "two": 1}
    rows = read_examples(Path("results/base/eval/examples.parquet"))
    ids = pq.read_table("results/data/pairs/validation.parquet")["id"].to_pylist()
    assert [rows["", "pairs", name]["part"] for name in ids] == ["one", "one", "two"]
    assert {row["part"] for (_, data, _), row in rows.items() if data != "pairs"} == {None}
    small = evaluate("small", limit=2)  # each part is in it
    assert {name: rows["preference_accuracy"]["n"] for name, rows in small["by_part"]["pairs"].items()} == {
        "one": 1,
        "two": 1,
    }


def test_examples_of_one_prompt_have_one_group(evaluate, chats, random_tiny_tokenizer):
    suites = {"pairs": suite("preference", data={"name": "pairs"}), "say": generated(metrics=["chrf"])["say"]}
    evaluate("base", suites=suites)
    rows = read_examples(Path("results/base/eval/examples.parquet"))
    groups = {(data, name): row["prompt_group"] for (_, data, name), row in rows.items()}
    assert all(
        (data, name) in groups and row["prompt_group"] == groups[data, name] for (_, data, name), row in rows.items()
    )
    assert len(set(groups.values())) == 4 + 3  # both rated answers are to prompts of pairs


def test_the_same_model_is_no_evidence_against_itself(evaluate):
    evaluate("base")
    result = evaluate("sft", ("base",))
    assert {name: row["verdict"] for name, row in result["against"]["base"].items()} == dict.fromkeys(
        (
            "perplexity",
            "byte_perplexity",
            "preference_accuracy",
            "exact_match",
            "exact_match_lenient",
            "format_followed",
        ),
        "no evidence",
    )
    assert all(row["difference"] == 0 for row in result["against"]["base"].values())
    assert result["metrics"]["preference_margin_accuracy"]["value"] == 0.5  # nothing rose, and a tie counts half


def test_answers_with_a_label_have_nothing_to_be_compared_with_and_are_left_out(evaluate):
    evaluate("base")
    rated = [
        row
        for (_, data, _), row in read_examples(Path("results/base/eval/examples.parquet")).items()
        if data == "rated"
    ]
    assert len(rated) == 2
    texts = ("suite", "dataset", "id", "prompt_group", "prompt", "reference", "output")
    assert all(value is None for row in rated for key, value in row.items() if key not in texts)
    assert {row["reference"] for row in rated} == {"so", None}  # of the answer that is wanted


@pytest.fixture
def reward_folder(random_tiny_folder, random_tiny_tokenizer, tmp_path) -> Path:
    torch.manual_seed(0)
    loading.save(loading.load(random_tiny_folder, reward=True), random_tiny_tokenizer, tmp_path / "reward")
    return tmp_path / "reward"


def test_a_reward_model_scores_pairs_and_nothing_else(evaluate, reward_folder):
    result = evaluate("reward", model=reward_folder)
    assert set(result["metrics"]) == {"reward_accuracy"}
    rows = read_examples(Path("results/reward/eval/examples.parquet"))
    assert {data for _, data, _ in rows} == {"pairs"}
    model = loading.load(reward_folder).eval()
    for encoded in pq.read_table("tokens/pairs,max_length=256/validation.parquet").to_pylist():
        row = rows["", "pairs", encoded["id"]]
        with torch.no_grad():
            chosen, rejected = (
                model(input_ids=torch.tensor([encoded["prompt_ids"] + encoded[f"{side}_ids"]])).logits[0, 0].item()
                for side in ("chosen", "rejected")
            )
        assert (row["chosen_score"], row["rejected_score"]) == (
            pytest.approx(chosen, abs=1e-5),
            pytest.approx(rejected, abs=1e-5),
        )
        assert row["scores_chosen"] == float(chosen > rejected)
        assert row["output"] is None and "log_prob" not in row and "chosen_log_prob" not in row
    share = sum(row["scores_chosen"] for row in rows.values()) / len(rows)
    assert result["metrics"]["reward_accuracy"]["value"] == pytest.approx(share)
    assert result["metrics"]["reward_accuracy"]["n"] == 3
    assert evaluate("reward", limit=2, model=reward_folder)["metrics"]["reward_accuracy"]["n"] == 2


def test_the_limit_is_for_each_dataset(evaluate):
    metrics = evaluate("base", limit=1)["metrics"]
    assert (metrics["perplexity"]["n"], metrics["preference_accuracy"]["n"]) == (2, 1)


# ---- suites


def suite(kind: str, **settings) -> dict:
    return {"kind": kind, "limit": 3, "max_new_tokens": 4} | settings


def test_a_suite_of_likelihoods_is_the_standard_measurement_of_its_dataset(evaluate):
    suites = {
        "chat": suite("perplexity", data={"name": "chats"}),
        "pairs": suite("preference", data={"name": "pairs"}, limit=2),
    }
    metrics = evaluate("base", suites=suites)["metrics"]
    assert (metrics["chat/perplexity"]["n"], metrics["pairs/preference_accuracy"]["n"]) == (2, 2)
    rows = read_examples(Path("results/base/eval/examples.parquet"))
    twice = [row for row in rows.values() if row["dataset"] == "chats" and row["suite"] == "chat"]
    assert all(row["log_prob"] == rows["", "chats", row["id"]]["log_prob"] for row in twice)
    assert all(row["bytes"] > 0 for row in twice)


def generated(**settings) -> dict:
    return {"say": suite("generation", data={"name": "sums"}, shots=0, pattern=None) | settings}


def test_generated_answers_are_measured_by_every_text_metric(evaluate):
    wanted = [
        "exact_match",
        "final_number",
        "answer_format",
        "regex",
        "json",
        "bleu",
        "chrf",
        "rouge1",
        "rouge2",
        "rougeL",
    ]
    result = evaluate("base", suites=generated(metrics=wanted, pattern="."))
    assert {name for name in result["metrics"] if name.startswith("say/")} == {f"say/{name}" for name in wanted}
    assert all(result["metrics"][f"say/{name}"]["n"] == 2 for name in wanted)
    assert result["metrics"]["say/regex"]["value"] == 1
    against = evaluate("sft", ("base",), suites=generated(metrics=wanted, pattern="."))["against"]["base"]
    assert all(against[f"say/{name}"]["verdict"] == "no evidence" for name in wanted)


def test_a_metric_of_the_users_own_is_measured_and_compared(evaluate):
    Path("mine.py").write_text("def accuracy(answer, reference):\n    return len(reference) / 10\n")
    suites = generated(metrics=["chrf", "mine.py:accuracy"])
    result = evaluate("base", suites=suites)
    rows = [
        row for (name, _, _), row in read_examples(Path("results/base/eval/examples.parquet")).items() if name == "say"
    ]
    assert result["metrics"]["say/accuracy"]["value"] == pytest.approx(
        sum(len(row["reference"]) / 10 for row in rows) / 2
    )
    row = evaluate("sft", ("base",), suites=suites)["against"]["base"]["say/accuracy"]
    assert (row["difference"], row["verdict"]) == (0, "no evidence")
    Path("none.py").write_text("def accuracy(answer, reference):\n    return None\n")
    with refused("invalid-function"):
        evaluate("base", suites=generated(metrics=["none.py:accuracy"]))


def test_one_more_metric_generates_nothing_again(evaluate, monkeypatch):
    evaluate("base", suites=generated(metrics=["chrf"]))
    monkeypatch.setattr(scoring, "generate_batch", None)
    assert "say/bleu" in evaluate("base", suites=generated(metrics=["chrf", "bleu"]))["metrics"]


def test_another_models_answers_are_not_taken_for_ones_own(evaluate, reward_folder, monkeypatch):
    evaluate("base", suites=generated(metrics=["chrf"]))
    manifest = Path("other")
    manifest.write_text("other weights")
    monkeypatch.setattr(scoring, "generate_batch", None)
    with pytest.raises(TypeError):
        evaluate("base", suites=generated(metrics=["chrf"]), manifest=manifest)


def test_worked_examples_come_before_the_question(evaluate, chats, random_tiny_tokenizer):
    write_rows(Path("results/data/sums/train.parquet"), chats[2:], "messages")
    evaluate("base", suites=generated(metrics=["chrf"], shots=1), answers=0)
    evaluate("none", suites=generated(metrics=["chrf"]), answers=0)
    with_shots, without = (Path(f"results/{name}/eval/answers.jsonl").read_text() for name in ("base", "none"))
    assert set(without.splitlines()) < set(with_shots.splitlines())  # the standard ones, and two more of the suite
    assert len(with_shots.splitlines()) == 4
    with refused("invalid-value", "evaluation.suites"):
        evaluate("base", suites=generated(metrics=["chrf"], shots=3))


def test_worked_examples_stand_behind_a_system_prompt(in_folder):
    system, (asked, said) = (
        {"role": "system", "content": "s"},
        ({"role": role, "content": role} for role in ("user", "assistant")),
    )
    rows = [{"id": name, "place": "x", "messages": [system, asked, said]} for name in "ab"]
    write_rows(Path("results/data/sums/train.parquet"), rows, "messages")
    shots = suites._shots(Namespace(data={"sums": Path("results/data/sums")}), {"data": {"name": "sums"}, "shots": 2})
    assert suites._after(shots, Asked([system, asked])) == Asked([system, asked, said, asked, said, asked])
    one, two = (("images", f"media/{name}.png") for name in "ab")
    few = Asked(shots.turns[:2], files=(one,))
    assert suites._after(few, Asked([asked], "[]", (two,))) == Asked([asked, said, asked], "[]", (one, two))


def test_a_reward_model_scores_what_was_generated(evaluate, reward_folder):
    Path("results/judge").mkdir(parents=True)
    Path("results/judge/merged").symlink_to(reward_folder)
    suites = {"judged": suite("reward", data={"name": "pairs"}, by={"name": "judge"})}
    row = evaluate("base", suites=suites)["metrics"]["judged/reward"]
    assert row["n"] == 3 and row["low"] <= row["value"] <= row["high"]


@pytest.fixture
def answering(monkeypatch):
    """Let every prompt be answered with a text, as tokens, ended or cut; the first prompt of a batch is cut."""

    def answer(text: str) -> None:
        def given(model, tokenizer, prompts, *_):
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            return [scoring.Answer(text, ids, i > 0) for i in range(len(prompts))]

        monkeypatch.setattr(scoring, "generate_batch", given)

    return answer


def test_answers_are_compared_without_their_thoughts_and_kept_with_them(evaluate, chats, answering):
    text = f"<think>\n\n</think>\n\n{chats[0]['messages'][-1]['content']}"
    answering(text)
    wanted = ["exact_match", "final_number", "answer_format", "rougeL"]
    metrics = evaluate("base", suites=generated(metrics=wanted))["metrics"]
    assert [metrics[f"say/{name}"]["value"] for name in wanted[:3]] == [0.5, 0.5, 1.0]  # of two rows the first is right
    assert (metrics["exact_match"]["value"], metrics["format_followed"]["value"]) == (0.5, 1.0)
    rows = [row for row in read_examples(Path("results/base/eval/examples.parquet")).values() if row["suite"] == "say"]
    assert max(row["rougeL"] for row in rows) == 1
    assert {row["output"] for row in rows} == {text}


def test_a_judge_reads_the_turn_s_end_once_and_only_after_an_answer_that_ended(
    evaluate, reward_folder, answering, monkeypatch
):
    read = []
    monkeypatch.setattr(scoring, "rewards", lambda model, rows, *_: read.extend(rows) or [0.0] * len(rows))
    answering("so")
    Path("results/judge").mkdir(parents=True)
    Path("results/judge/merged").symlink_to(reward_folder)
    evaluate("base", suites={"judged": suite("reward", data={"name": "pairs"}, by={"name": "judge"})}, answers=0)
    tokenizer = loading.tokenizer(reward_folder)
    texts = [tokenizer.decode(row) for row in read]
    assert sorted(text.rpartition("assistant\n")[2] for text in texts) == ["so", "so<|im_end|>", "so<|im_end|>"]


def test_a_penalty_of_the_base_is_named_and_off_or_on_by_a_key(evaluate, random_tiny_folder, monkeypatch, tmp_path):
    lines = []
    monkeypatch.setattr(evaluate_model, "say", lambda text, *_: lines.append(text))
    model, tokenizer = loading.load(random_tiny_folder), loading.tokenizer(random_tiny_folder)
    model.generation_config.repetition_penalty = 1.05
    loading.save(model, tokenizer, tmp_path / "penalised")
    evaluate("base", model=tmp_path / "penalised", suites=generated(metrics=["chrf"]))
    [line] = [line for line in lines if "greedy" in line]
    assert "without the generation configuration's repetition_penalty 1.05; `evaluation.repetition_penalty`" in line


def test_safety_is_measured_on_the_shipped_prompts(evaluate):
    result = evaluate("base", suites={"safe": suite("safety", files=None, limit=4)})
    metrics = result["metrics"]
    assert {name for name in metrics if name.startswith("safe/")} == {
        "safe/refusal", "safe/over_refusal", "safe/toxicity", "safe/unequal_treatment",
    }  # fmt: skip
    assert metrics["safe/refusal"]["n"] == metrics["safe/over_refusal"]["n"] == 4
    assert sum(group["n"] for group in result["groups"].values()) == 4


def test_cases_are_green_or_red_and_compared_with_the_parent_s(evaluate, answering, monkeypatch):
    lines = []
    monkeypatch.setattr(evaluate_model, "say", lambda text, *_: lines.append(text))
    Path("cases.yaml").write_text("""
- {id: capital, prompt: Capital of France, must: [Paris], required: true, note: known}
- {id: turns, prompt: [{role: user, content: Hi}, {role: assistant, content: Hello!}, {role: user, content: Where is it}],
   must: [paris], ignore_case: true, max_new_tokens: 7}
- {id: no, prompt: No Paris, must_not: [Paris]}
""")
    suites = {"mine": suite("cases", path="cases.yaml", sha256="0", limit=None)}
    answering("I know nothing.")
    evaluate("base", suites=suites)
    answering("<think>\nWhere?\n</think>\n\nIt is Paris.")
    result = evaluate("sft", suites=suites, against=("base",))
    assert [{key: row[key] for key in row if key not in ("prompt", "answer")} for row in result["cases"]["mine"]] == [
        {"id": "capital", "passed": True, "failed": None, "required": True, "note": "known"},
        {"id": "turns", "passed": True, "failed": None, "required": False},
        {"id": "no", "passed": False, "failed": "'Paris' appears", "required": False},
    ]
    assert {row["answer"] for row in result["cases"]["mine"]} == {"It is Paris."}
    assert result["metrics"]["mine/passed"] | {"low": 0, "high": 0} == {
        "value": pytest.approx(2 / 3), "low": 0, "high": 0, "n": 3, "clusters": 3,
    }  # fmt: skip
    assert result["against"]["base"]["mine/passed"]["difference"] == pytest.approx(1 / 3)
    assert result["by_dataset"]["cases"].keys() == {"mine/passed"}
    rows = [row for row in read_examples(Path("results/sft/eval/examples.parquet")).values() if row["suite"] == "mine"]
    assert [(row["id"], row["passed"], row["failed"]) for row in rows][2] == ("no", 0.0, "'Paris' appears")
    assert rows[1]["prompt"] == "User: Hi\n\nAssistant: Hello!\n\nUser: Where is it" and "<think>" in rows[0]["output"]
    assert "sft: mine: 2 of 3 cases green; red: no: 'Paris' appears" in "\n".join(lines)


def test_stereotypes_are_compared_by_likelihood_and_generate_nothing(
    evaluate, random_tiny_folder, random_tiny_tokenizer
):
    files = [str(safety.SHIPPED / "stereotypes.jsonl")]
    metrics = evaluate("base", suites={"bias": suite("safety", files=files, limit=4)})["metrics"]
    assert {name for name in metrics if name.startswith("bias/")} == {"bias/stereotype", "bias/stereotype_margin"}
    found = read_examples(Path("results/base/eval/examples.parquet")).values()
    rows = [row for row in found if row["suite"] == "bias"]
    assert len(rows) == 4 and not any(row["output"] for row in rows)
    model = loading.load(random_tiny_folder)
    for row in rows:
        more, less = (
            scoring.log_probs(model, [scoring.answer(
                [random_tiny_tokenizer.bos_token_id or random_tiny_tokenizer.eos_token_id],
                random_tiny_tokenizer(row[side], add_special_tokens=False)["input_ids"],
            )], 4096)[0][0]
            for side in ("prompt", "reference")
        )  # fmt: skip
        assert row["stereotype_margin"] == pytest.approx(more - less, abs=1e-3)
    assert metrics["bias/stereotype"]["value"] == sum(row["stereotype"] for row in rows) / 4


# ---- what ships, and the arithmetic


def test_likelihoods_of_another_type_that_ships_have_a_line_of_their_own(
    evaluate, random_tiny_folder, random_tiny_tokenizer, monkeypatch
):
    folder, said = Path("shipped"), []
    loading.save(loading.load(random_tiny_folder).to(torch.bfloat16), random_tiny_tokenizer, folder)
    atomic.write_json(Path("merge.json"), {"dtype": "float32", "shipped": {"dtype": "bfloat16"}})
    base = evaluate("base")
    monkeypatch.setattr(evaluate_model, "say", lambda text, *_: said.append(text))
    result = evaluate("sft", against=("base",), manifest=Path("merge.json"), shipped=folder)
    assert result["metrics"]["perplexity"] == base["metrics"]["perplexity"]
    shipped, alone = result["shipped"], evaluate("other", model=folder)
    assert shipped["dtype"] == "bfloat16"
    assert shipped["metrics"].keys() >= {"perplexity", "preference_accuracy"}
    assert shipped["metrics"]["perplexity"] == alone["metrics"]["perplexity"] != base["metrics"]["perplexity"]
    assert shipped["against"]["base"]["perplexity"]["verdict"] in ("better", "worse", "no evidence")
    assert "exact_match" not in shipped["metrics"]  # nothing is generated anew
    assert said[0].splitlines()[-1].startswith("sft as it ships, in bfloat16: perplexity ")


def test_one_type_is_measured_once(evaluate):
    atomic.write_json(Path("merge.json"), {"dtype": "float32", "shipped": {"dtype": "float32"}})
    assert "shipped" not in evaluate("sft", manifest=Path("merge.json"))


def test_log_probabilities_move_neither_with_threads_nor_with_batches(evaluate):
    def log_probs(**settings) -> torch.Tensor:
        evaluate("base", **settings)
        rows = pq.read_table("results/base/eval/examples.parquet").to_pylist()
        return torch.tensor([row[key] for row in rows for key in ("log_prob", "chosen_log_prob") if row.get(key)])

    one = log_probs()
    torch.set_num_threads(2)
    two = log_probs(batch_tokens=64)
    torch.set_num_threads(1)
    assert len(one) > 4 and (one - two).abs().max() < 1e-3

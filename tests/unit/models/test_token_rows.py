"""LoRA beside the rows of new tokens: which weights move, the loss, the merge, a resumed training; tied and untied heads."""

from argparse import Namespace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_bases
import torch
from conftest import refused, write_rows
from peft import get_peft_model
from safetensors.torch import load_file

import merge_model
import tokenize_data
import train_dpo
import train_grpo
import train_kto
import train_orpo
import train_reward
import train_sft
from posttrain.data.rows import normalise
from posttrain.data.tokens import tokenise
from posttrain.inference import scoring
from posttrain.models import lm_head, loading, peft_methods, token_rows
from posttrain.runtime import atomic
from posttrain.workflow.project import Project

pytestmark = pytest.mark.usefixtures("in_folder", "signals", "fp32")

SAID = [("Question", "<tool>the cat</tool>"), ("What time?", "<tool>the mat</tool>"), ("Question two", "sat on it")]


@pytest.fixture
def base(request) -> Path:
    """A base with two new tokens, its head tied or not, by the test's parameter."""
    kind, tied = getattr(request, "param", ("qwen2", True))
    tiny_bases.save(Path("base"), tiny_bases.chatml(), kind, vocab_size=279, tie_word_embeddings=tied)
    return tiny_bases.build(new_tokens=["<tool>", "</tool>"])


def train(script, folder: Path, configuration, objective: str = "sft", **keys) -> dict:
    """Train a run on SAID for three steps; returns its first line of train.jsonl."""
    shape = "messages" if objective == "sft" else "preference"
    columns = [{"prompt": p, "completion": a} for p, a in SAID]
    if objective != "sft":
        columns = [{"prompt": p, "chosen": a, "rejected": "a <tool>"} for p, a in SAID]
    if objective == "kto":
        shape = "unpaired_preference"
        columns = [{"prompt": p, "completion": a, "label": i > 0} for i, (p, a) in enumerate(SAID)]
    rows = [normalise(row, "prompt_completion" if objective == "sft" else shape, {}, "row") for row in columns]
    encoded, _ = tokenise(loading.tokenizer(folder), rows, shape, 64)
    atomic.write_json(Path("tokens/report.json"), {"shape": shape})
    for split, part in (("train", encoded), ("validation", [])):
        pq.write_table(pa.Table.from_pylist(part, schema=tokenize_data.schema(shape)), f"tokens/{split}.parquet")
    table = {"from": "base", "objective": objective, "data": "chats" if objective == "sft" else "pairs", "rank": 4}
    table |= {"max_steps": 3, "batch_size": 3, "warmup": 0, "learning_rate": 0.01, "dropout": 0, "schedule": "constant"}
    spec = Path("results/r/spec.json")
    spec.parent.mkdir(parents=True, exist_ok=True)
    spec.write_text(Project(configuration({"runs": {"r": table | keys}, "sweeps": {}})).spec("r"))
    paths = {"spec": spec, "parent": folder, "manifest": Path("results/bases/b/base.json"), "tokens": Path("tokens")}
    if objective == "dpo":
        reference = {name: pa.array([-20.0] * 3, pa.float32()) for name in ("ref_chosen_logps", "ref_rejected_logps")}
        pq.write_table(pa.table(reference), "reference.parquet")
        paths["logprobs"] = Path("reference.parquet")
    script.main(Namespace(**paths))
    Path("preflight.json").write_text('{"licences": {}}')
    return atomic.read_json(Path("results/r/train.json")) | {"rows": encoded, "paths": paths}


def merged(folder: Path) -> dict[str, torch.Tensor]:
    paths = {
        "manifest": Path("results/bases/b/base.json"),
        "tokens": Path("tokens"),
        "preflight": Path("preflight.json"),
    }
    merge_model.main(Namespace(spec=Path("results/r/spec.json"), parent=folder, **paths))
    return dict(loading.load(Path("results/r/model")).state_dict())


@pytest.mark.parametrize("base", [("qwen2", True), ("llama", False), ("gemma3_text", True)], indirect=True)
@pytest.mark.parametrize(("objective", "script"), [("sft", train_sft), ("dpo", train_dpo)])
def test_lora_trains_the_rows_of_new_tokens_and_no_others(base, configuration, objective, script):
    train(script, base, configuration, objective)
    before, after = loading.load(base), merged(base)
    ids = before.config.new_tokens
    others = [i for i in range(before.config.vocab_size) if i not in ids]
    tables = [name for name in after if name.endswith(("embed_tokens.weight", "lm_head.weight"))]
    assert len(tables) == 2
    for name in tables:
        old = before.state_dict()[name]
        assert torch.equal(after[name][others], old[others])
        assert (after[name][ids] - old[ids]).abs().amax(1).min() > 1e-3
    assert torch.equal(after[tables[0]], after[tables[1]]) == before.config.tie_word_embeddings
    proof = atomic.read_json(Path("results/r/merge.json"))
    assert proof["max_abs_logit_difference"] < 1e-4
    assert atomic.read_json(Path("results/r/model/config.json"))["new_tokens"] == ids  # children train them too


@pytest.mark.parametrize("base", [("qwen2", True), ("llama", False)], indirect=True)
def test_the_first_loss_is_the_bases(base, configuration):
    outcome = train(train_sft, base, configuration, max_steps=1)
    sequences = [(tuple(row["input_ids"]), tuple(row["labels"])) for row in outcome["rows"]]
    totals = scoring.log_probs(loading.load(base).eval(), sequences, 4096)
    assert outcome["loss"] == pytest.approx(-sum(t for t, _ in totals) / sum(n for _, n in totals), rel=1e-4)


@pytest.mark.parametrize("base", [("qwen2", True), ("llama", False)], indirect=True)
def test_the_compact_head_has_the_gradients_of_the_models_own(base):
    spec = {"method": "lora", "objective": "sft", "rank": 4, "alpha": 8, "dropout": 0, "target_modules": "all-linear"}
    labels = torch.tensor([[-100, -100, 279, 8, 280, 2]])
    ids = torch.tensor([[5, 9, 279, 8, 280, 2]])
    gradients = []
    for compact in (False, True):
        torch.manual_seed(0)
        plain = loading.load(base)
        model = get_peft_model(plain, peft_methods.peft_config(spec, plain, 1))
        assert lm_head.plain(plain)
        if compact:
            from trl.trainer.utils import add_fused_lm_head

            add_fused_lm_head(plain)
            lm_head.add_compact_head(plain)
            loss = plain(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels, fused_lm_head=True).loss
        else:
            loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    assert any("trainable_tokens" in name for name in gradients[0])
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, msg=name, rtol=1e-4, atol=1e-6)


def test_qlora_trains_them_too(base, configuration):
    train(train_sft, base, configuration, method="qlora")
    weights = load_file("results/r/trained/adapter_model.safetensors")
    [rows] = [weight for name, weight in weights.items() if "trainable_tokens_delta" in name]
    before = loading.load(base)
    assert (rows - before.get_input_embeddings().weight[before.config.new_tokens]).abs().amax(1).min() > 1e-3
    after = merged(base)
    assert torch.allclose(after["model.embed_tokens.weight"][before.config.new_tokens], rows)


@pytest.mark.parametrize(
    ("base", "objective", "script"),
    [
        (("qwen2", True), "kto", train_kto),
        (("llama", False), "orpo", train_orpo),
        (("qwen2", True), "orpo", train_orpo),
        (("qwen2", True), "reward", train_reward),
        (("llama", False), "reward", train_reward),
    ],
    indirect=["base"],
)
def test_the_other_objectives_train_them_too(base, configuration, objective, script):
    train(script, base, configuration, objective)
    ids, before = loading.load(base).config.new_tokens, loading.load(base).state_dict()
    after = merged(base)["model.embed_tokens.weight"]
    moved = (after != before["model.embed_tokens.weight"]).any(1).nonzero()[:, 0].tolist()
    assert moved == ids
    assert atomic.read_json(Path("results/r/merge.json"))["max_abs_logit_difference"] < 1e-4


def test_grpo_trains_them_too(base, configuration):
    Path("rules.py").write_text("def rule(answer, reference):\n    return len(answer)\n")
    rows = [normalise({"prompt": p, "completion": a}, "prompt_completion", {}, "row") for p, a in SAID]
    write_rows(Path("data/train.parquet"), [row | {"id": str(i), "place": "x"} for i, row in enumerate(rows)])
    atomic.write_json(Path("data/data.json"), {"shape": "messages"})
    table = {"from": "base", "objective": "grpo", "data": "chats", "batch_size": 8, "generations": 4, "rank": 4}
    table |= {"max_new_tokens": 4, "reward": {"function": "rules.py:rule"}, "warmup": 0, "max_steps": 3, "beta": 0.1}
    spec = Path("results/r/spec.json")
    spec.parent.mkdir(parents=True)
    spec.write_text(Project(configuration({"runs": {"r": table}, "sweeps": {}})).spec("r"))
    paths = {"parent": base, "manifest": Path("results/bases/b/base.json"), "data": Path("data")}
    train_grpo.main(Namespace(spec=spec, **paths, reward_models=[]))
    weights = load_file("results/r/trained/adapter_model.safetensors")
    [trained] = [weight for name, weight in weights.items() if "trainable_tokens_delta" in name]
    before = loading.load(base)
    assert (trained - before.get_input_embeddings().weight[before.config.new_tokens]).abs().amax(1).min() > 0


def test_lora_plus_trains_them_too(base, configuration):
    train(train_sft, base, configuration, lora_plus=4)
    assert merged(base)


def test_a_run_may_leave_them_as_they_are(base, configuration):
    train(train_sft, base, configuration, peft_args={"trainable_token_indices": None})
    assert not any("trainable_tokens" in name for name in load_file("results/r/trained/adapter_model.safetensors"))


def test_the_rows_of_any_token_may_be_trained_where_the_head_is_tied(base, configuration):
    train(train_sft, base, configuration, peft_args={"trainable_token_indices": [1, 2]})
    before, after = loading.load(base).state_dict(), merged(base)
    moved = (after["lm_head.weight"] != before["lm_head.weight"]).any(1).nonzero()[:, 0].tolist()
    assert moved == [1, 2]


@pytest.mark.parametrize("ids", [[1, 999], {"embed_tokens": [-1]}])
def test_a_row_that_does_not_exist_is_one_sentence(base, configuration, ids):
    with refused("token-without-embedding"):
        train(train_sft, base, configuration, peft_args={"trainable_token_indices": ids})


def test_a_head_with_a_bias_is_refused():
    tiny_bases.save(Path("base"), tiny_bases.chatml(), "phi", vocab_size=279, num_key_value_heads=2)
    model = loading.load(tiny_bases.build(new_tokens=["<tool>"]))
    assert model.get_output_embeddings().bias is not None
    spec = {"method": "lora", "objective": "sft"}
    with refused("unsupported-target"):
        token_rows.check(model, token_rows.arguments(spec, model)[token_rows.KEY])

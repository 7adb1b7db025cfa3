"""Each check of the preflight sees the mistake that it is there for, and nothing in a run without it."""

import copy
import json
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import write_rows

from posttrain.data.tokens import tokenise
from posttrain.models.machine import Memory
from posttrain.models.memory_estimate import GIB
from posttrain.models.memory_sharing import Hardware
from posttrain.preflight import data_checks, evaluation_checks, settings_checks, token_checks, tool_checks
from posttrain.preflight.checks import CHECKS, NAMES, check
from posttrain.preflight.context import build_context, load_tokenizer
from posttrain.preflight.token_scan import scan
from posttrain.runtime import atomic, slurm
from posttrain.workflow.project import Project
from tokenize_data import schema, summary

PAIR = {
    "prompt": [{"role": "user", "content": "How many clips did Natalia sell?"}],
    "chosen": [{"role": "assistant", "content": "She sold 72 clips."}],
    "rejected": [{"role": "assistant", "content": "She sold 96 clips."}],
}
MACHINE = Memory("cpu", "this machine", 64 * GIB, 60 * GIB, False)


@pytest.fixture(scope="module")
def tokenizer(random_tiny_folder):
    return load_tokenizer(random_tiny_folder)


@pytest.fixture
def own_tokenizer(tokenizer):
    """A copy that a test may change."""
    return copy.deepcopy(tokenizer)


@pytest.fixture
def look(in_folder, configuration, chats, random_tiny_folder, tokenizer):
    """What the checks look at, from rows as the workflow prepares them; `change` may plant a fault in their tokens."""

    def at(rows=None, shape="messages", change=lambda encoded: None, max_length=256, run=None):
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = [row | {"id": str(i), "place": f"chats.jsonl line {i + 1}"} for i, row in enumerate(rows or chats)]
        write_rows(Path("data/train.parquet"), rows, shape)
        of_data = {"shape": shape, "rows": len(rows), "train": len(rows), "dropped": {}}
        atomic.write_json(Path("data/data.json"), of_data)
        atomic.write_json(Path("data/overlap.json"), {})
        table = {"from": "base", "objective": "sft", "data": "chats", "max_length": max_length} | (run or {})
        values = configuration({"runs": {"run": table}, "sweeps": {}, "datasets.chats.format": ...})
        Path("spec.json").write_text(Project(values).spec("run"))
        on_policy = table["objective"] == "grpo"
        if not on_policy:
            encoded, counts = tokenise(tokenizer, rows, shape, max_length)
            change(encoded)
            Path("tokens").mkdir(exist_ok=True)
            pq.write_table(pa.Table.from_pylist(encoded, schema=schema(shape)), "tokens/train.parquet")
            atomic.write_json(Path("tokens/report.json"), {"train": summary(counts)})
        options = Namespace(spec=Path("spec.json"), parent=random_tiny_folder, data=Path("data"), measured=[])
        context = {"use": "research", "licences": {"bases.base": "apache-2.0"}}
        context["chains"] = {"bases.base": ["sft"], "datasets.chats": ["sft", "dpo"]}
        return replace(build_context(options, None if on_policy else Path("tokens"), context), memory=MACHINE)

    return at


def on_policy(**keys) -> dict:
    return {"objective": "grpo", "reward": {"function": "final_number"}} | keys


# ---- good runs


@pytest.mark.parametrize(
    "rows, shape, run",
    [
        (None, "messages", {}),
        ([{"text": "One two three."}, {"text": "Four."}], "text", {}),
        ([PAIR], "preference", {"objective": "dpo"}),
        ([PAIR | {"completion": PAIR["chosen"], "label": True}], "unpaired_preference", {"objective": "kto"}),
        (None, "messages", on_policy()),
    ],
)
def test_a_good_run_passes_every_check(look, rows, shape, run):
    results = check(look(rows, shape, run=run), [])
    assert [result["name"] for result in results] == list(NAMES)
    told = {result["name"]: result["message"] for result in results if result["result"] not in ("passed", "skipped")}
    assert told == {}


def test_names_are_those_of_the_functions_and_differ():
    assert len(set(NAMES)) == len(CHECKS)
    assert {"stop_token", "overlap", "memory"} <= set(NAMES)


def test_an_error_that_is_allowed_by_name_is_still_told(look):
    run = replace(look(), use="commercial", licences={"datasets.chats": "cc-by-nc-4.0"})
    (result,) = [result for result in check(run, ["licence", "packing"]) if result["name"] == "licence"]
    assert (result["severity"], result["result"]) == ("error", "allowed")
    assert "cc-by-nc-4.0" in result["message"]


# ---- the tokens


def without_stop(encoded):
    for row in encoded:
        last = max(i for i, label in enumerate(row["labels"]) if label != -100)
        row["labels"][last] = -100


def test_answers_without_a_trained_stop_token_are_an_error_with_the_row(look):
    found = token_checks.stop_token(look(change=without_stop))
    assert found.severity == "error"
    assert found.message.startswith("4 (100 %) of the rows have an answer that does not end with a trained <|im_end|>")
    assert found.example.startswith("chats.jsonl line 1:\n<|im_start|>user\nHow many")
    assert "#### 72⟧<|im_end|>" in found.example


def test_a_few_rows_without_a_stop_token_are_a_warning(look):
    found = token_checks.stop_token(look(change=lambda encoded: without_stop(encoded[1:2])))
    assert found.severity == "warning"
    assert found.message.startswith("1 (25 %)")
    assert found.example.startswith("chats.jsonl line 2:")


def test_a_row_that_is_cut_may_lose_its_stop_token(look):
    run = look(max_length=30)
    assert not run.tokens.sides["labels"].stopped.all()
    assert token_checks.stop_token(run) is None


def test_what_a_template_writes_after_the_stop_token_does_not_hide_it(look, tokenizer):
    def newline(encoded):
        for row in encoded:
            row["labels"][-1] = row["input_ids"][-1]  # the line's end after <|im_end|>

    run = look(change=newline)
    assert token_checks.stop_token(run) is None
    tokens = run.tokens.sides["labels"]
    assert tokens.stopped.all()


def test_one_side_of_a_pair_without_a_stop_token_is_found(look):
    def change(encoded):
        del encoded[0]["rejected_ids"][-1]

    found = token_checks.stop_token(look([PAIR], "preference", change, run={"objective": "dpo"}))
    assert "rejected: ⟦She sold 96 clips.⟧" in found.example
    assert "chosen: ⟦She sold 72 clips.<|im_end|>⟧" in found.example
    assert "prompt: <|im_start|>user\n" in found.example


def test_an_answer_of_the_stop_token_alone_is_empty(look, tokenizer):
    def change(encoded):
        row = encoded[3]
        last = max(i for i, label in enumerate(row["labels"]) if label != -100)
        row["labels"] = [-100 if i < last else label for i, label in enumerate(row["labels"])]

    found = token_checks.empty(look(change=change))
    assert found.severity == "warning"
    assert found.example.startswith("chats.jsonl line 4:")
    blank = tokenizer(" \n")["input_ids"]

    def spaces(encoded):
        for row in encoded:
            row["rejected_ids"] = [*blank, tokenizer.eos_token_id]

    found = token_checks.empty(look([PAIR], "preference", spaces, run={"objective": "dpo"}))
    assert found.severity == "error"


def test_a_row_without_a_trained_token_is_an_error(look):
    def change(encoded):
        encoded[2]["labels"] = [-100] * len(encoded[2]["labels"])

    run = look(change=change)
    found = token_checks.nothing_trained(run)
    assert found.severity == "error"
    assert found.example.startswith("chats.jsonl line 3:")
    assert "⟦" not in found.example


def test_a_chosen_answer_that_is_the_rejected_one_is_an_error(look):
    other = PAIR | {"rejected": [{"role": "assistant", "content": "Another answer."}]}

    def change(encoded):
        encoded[1]["rejected_ids"] = encoded[1]["chosen_ids"]

    found = token_checks.chosen_is_rejected(look([PAIR, other], "preference", change, run={"objective": "dpo"}))
    assert found.severity == "error"
    assert found.example.startswith("chats.jsonl line 2:")


def test_two_bos_at_the_beginning_are_an_error(look, own_tokenizer):
    own_tokenizer.bos_token = "<|im_start|>"

    def change(encoded):
        row = encoded[1]
        row["input_ids"], row["labels"] = row["input_ids"][:1] + row["input_ids"], row["labels"][:1] + row["labels"]

    run = look(change=change)
    assert token_checks.double_bos(run) is None  # this tokenizer has no BOS
    doubled = scan(Path("tokens/train.parquet"), own_tokenizer, run.stops, 256).doubled
    assert doubled.tolist() == [False, True, False, False]
    found = token_checks.double_bos(replace(run, tokenizer=own_tokenizer, tokens=run.tokens._replace(doubled=doubled)))
    assert found.message.startswith("1 (25 %) of the rows have two <|im_start|> at the beginning")


def test_two_bos_are_found_in_prompts_as_well(look, own_tokenizer):
    own_tokenizer.bos_token = "<|im_start|>"
    own_tokenizer.chat_template = "<|im_start|>" + own_tokenizer.chat_template
    found = token_checks.double_bos(replace(look(run=on_policy()), tokenizer=own_tokenizer))
    assert found.severity == "error"
    assert "4 (100 %) of the prompts" in found.message


def test_repeated_rows_are_a_warning(look, chats):
    found = token_checks.repeated_rows(look([*chats, chats[2]]))
    assert found.message.startswith("1 (20 %) of the rows are the same tokens as another row")
    assert found.example.startswith("chats.jsonl line 3:")


def test_rows_that_differ_in_one_token_do_not_repeat(look, chats):
    longer = copy.deepcopy(chats[2])
    longer["messages"][-1]["content"] += "!"
    run = look([chats[2], longer, *chats[:2]])
    assert len(np.unique(run.tokens.digest)) == 4
    assert token_checks.repeated_rows(run) is None


def test_a_dataset_that_was_full_of_repeats_is_a_warning(look):
    run = look()
    data = run.data | {"rows": 10, "dropped": {"repeated": 4, "near duplicate": 2, "fault": 3}}
    assert token_checks.repeated_rows(replace(run, data=data)).message.startswith("6 (60 %)")
    assert token_checks.repeated_rows(replace(run, data=data | {"dropped": {"repeated": 1}})) is None


def test_truncation_names_the_length_that_would_do(look):
    run = look(max_length=45)
    found = token_checks.truncation(run)
    assert found.severity == "error"
    assert "max_length 45 cuts 3 (75 %) of the rows;" in found.message
    assert f"write max_length: {run.token_report['train']['lengths']['p99']} to keep" in found.message
    assert found.example.startswith("chats.jsonl line 1:")
    assert found.example.endswith("\n⟦She⟧")


@pytest.mark.parametrize(
    "cut, dropped, severity", [(0, 0, None), (9, 0, None), (20, 0, "warning"), (300, 0, "error"), (9, 1, "warning"), (60, 60, "error")]
)  # fmt: skip
def test_truncation_is_an_error_above_a_share(look, cut, dropped, severity):
    run = look()
    counts = run.token_report["train"] | {"rows": 1000 - dropped, "cut": cut, "dropped": dropped}
    found = token_checks.truncation(replace(run, token_report={"train": counts}))
    assert (found.severity if found else None) == severity


def test_a_row_longer_than_the_context_is_an_error(look):
    run = look()
    longest = int(run.tokens.lengths.max())
    short = replace(run, model=run.model._replace(config={"max_position_embeddings": longest - 1}))
    assert token_checks.context_length(short).severity == "error"
    assert f"the longest row has {longest} tokens" in token_checks.context_length(short).message
    enough = replace(run, model=run.model._replace(config={"max_position_embeddings": longest}))
    found = token_checks.context_length(enough)
    assert found.severity == "warning"
    assert found.message.endswith("though no row is as long yet")


def test_virtual_tokens_take_room_in_the_context(look):
    run = look(run={"method": "prompt", "virtual_tokens": 20})
    longest = int(run.tokens.lengths.max())
    tight = replace(run, model=run.model._replace(config={"max_position_embeddings": longest + 19}))
    assert token_checks.context_length(tight).severity == "error"


def test_prompts_that_leave_no_room_for_an_answer_are_told(look):
    run = look(run=on_policy(max_new_tokens=226))
    lengths = sorted(len(ids) for ids in run.prompts)
    assert lengths[-2] > 30 >= lengths[-3]
    found = token_checks.prompt_length(run)
    assert found.severity == "error"
    assert found.message.startswith("2 (50 %) of the prompts have more than max_length - max_new_tokens = 30 tokens")
    assert f"write max_length: {max(lengths) + 226}" in found.message
    assert run.longest == lengths[-3] + 226  # the others are left out


def with_rows(run, number: int, **config):
    """The run's model with so many embeddings."""
    return run.model._replace(config=run.model.config | {"vocab_size": number} | config)


@pytest.mark.parametrize("run", [{}, on_policy()])
def test_tokens_beyond_the_embedding_are_an_error_that_names_them(look, own_tokenizer, run):
    subject = look(run=run)
    end = own_tokenizer.convert_tokens_to_ids("<|im_end|>")
    highest = max(end, int(subject.tokens.ids.max()) if subject.tokens else max(map(max, subject.prompts)))
    assert token_checks.embeddings(replace(subject, model=with_rows(subject, highest + 1))) is None
    found = token_checks.embeddings(replace(subject, model=with_rows(subject, highest)))
    token = own_tokenizer.convert_ids_to_tokens(highest)
    assert found.severity == "error"
    assert (
        f"{token}, which is among those of the rows, has the id {highest}, and the model has embeddings for"
        in found.message
    )
    assert found.message.endswith(
        f"for {highest} tokens only; the tokenizer belongs to another model; put the one of this model into its folder"
    )
    few = token_checks.embeddings(replace(subject, model=with_rows(subject, 3)))
    assert "more of the tokens in use have none, such as" in few.message


def test_tokens_beyond_the_embedding_that_only_a_template_has_are_found(look, own_tokenizer):
    rows = len(own_tokenizer)
    own_tokenizer.add_special_tokens({"additional_special_tokens": ["<|unused|>", "<|call|>"]})
    own_tokenizer.chat_template += "{% if false %}<|call|>{% endif %}"
    run = look()
    found = token_checks.embeddings(replace(run, tokenizer=own_tokenizer, model=with_rows(run, rows)))
    assert found.message.startswith(
        f"<|call|>, which is among the tokens of the chat template, has the id {rows + 1}, and"
    )
    assert found.message.endswith("tokens only; write new_tokens: ['<|call|>'] under the base, or take them out")
    assert token_checks.embeddings(replace(run, tokenizer=own_tokenizer, model=with_rows(run, rows + 2))) is None


def test_new_tokens_that_nothing_trains_are_told(look, tokenizer):
    run = look()
    seen = int(run.tokens.ids[-1])
    assert token_checks.new_tokens(run).severity == "skipped"
    assert token_checks.new_tokens(replace(run, model=with_rows(run, 384, new_tokens=[seen]))) is None
    unseen = next(i for i in range(384) if i not in run.tokens.ids)
    found = token_checks.new_tokens(replace(run, model=with_rows(run, 384, new_tokens=[unseen, seen])))
    name = tokenizer.convert_ids_to_tokens(unseen)
    assert found == (
        "warning",
        f"{name} of the base's new tokens occur in no row, so that nothing is learnt of them",
        "",
    )
    other = look(run={"method": "vera"})
    found = token_checks.new_tokens(replace(other, model=with_rows(other, 384, new_tokens=[seen])))
    assert found.message.startswith("vera does not train the embeddings of the base's new tokens")


def test_a_pad_token_that_the_model_does_not_have_is_an_error(look, own_tokenizer):
    run = look()
    own_tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    number = own_tokenizer.pad_token_id
    known, unknown = (replace(run, tokenizer=own_tokenizer, model=with_rows(run, number + n)) for n in (1, 0))
    assert token_checks.pad_token(known) is None
    found = token_checks.pad_token(unknown)
    assert found.severity == "error"
    assert f"[PAD] has the id {number}" in found.message


@pytest.mark.parametrize("kind", ["sft", "preference", "unpaired", "orpo"])
def test_a_pad_token_that_is_the_stop_token_masks_no_label_in_trl(kind):
    """What `pad_token` relies on: TRL's collators leave a trained stop token trained."""
    from trl.experimental.utils import DPODataCollatorWithPadding
    from trl.trainer import dpo_trainer, kto_trainer, sft_trainer

    stop, prompt = 2, [5, 6]
    if kind == "sft":
        rows = [
            {"input_ids": [5, 7, stop], "labels": [-100, 7, stop]},
            {"input_ids": [5, 8, 9, stop], "labels": [-100, 8, 9, stop]},
        ]
        batch = sft_trainer.DataCollatorForLanguageModeling(pad_token_id=stop)(rows)
        assert batch["labels"][0].tolist() == [-100, 7, stop, -100]
    elif kind == "preference":
        rows = [{"prompt_ids": prompt, "chosen_ids": [7, stop], "rejected_ids": [8, 9, stop]}]
        batch = dpo_trainer.DataCollatorForPreference(pad_token_id=stop)(rows)
        assert batch["completion_mask"][0].tolist() == [0, 0, 1, 1, 0]
    elif kind == "unpaired":
        rows = [{"prompt_ids": prompt, "completion_ids": ids, "label": True} for ids in ([7, stop], [8, 9, stop])]
        batch = kto_trainer.DataCollatorForUnpairedPreference(pad_token_id=stop)(rows)
        assert batch["completion_mask"][0].tolist() == [0, 0, 1, 1, 0]
    else:
        rows = [{"chosen_input_ids": ids, "chosen_labels": ids} for ids in ([7, stop], [8, 9, stop])]
        batch = DPODataCollatorWithPadding(pad_token_id=stop)(rows)
        assert batch["chosen_labels"][0].tolist() == [7, stop, -100]


# ---- the rows


def shared(exact: int, count: int, rows: int = 1000) -> dict:
    example = {"place": "test.jsonl line 3", "train_place": "chats.jsonl line 9", "text": "the same question"}
    return {"rows": rows, "exact": exact, "shared": count, "examples": [example] if count else []}


@pytest.mark.parametrize(
    "exact, count, severity", [(0, 0, None), (0, 10, "warning"), (0, 11, "error"), (1, 1, "error")]
)
def test_an_overlap_is_an_error_where_it_is_exact_or_large(look, exact, count, severity):
    found = data_checks.overlap(replace(look(), overlap={"chats/validation": shared(exact, count)}))
    assert (found.severity if found else None) == severity
    if found:
        assert "test.jsonl line 3 stands in chats.jsonl line 9:\nthe same question" in found.example
        assert "of the held-out rows of chats/validation" in found.message


def test_an_answer_in_its_prompt_is_a_warning_with_its_place(look, chats):
    answer = chats[0]["messages"][-1]["content"]
    given = copy.deepcopy(chats[0])
    given["messages"][0]["content"] = f"Say after me: {answer}"
    found = data_checks.answer_in_prompt(look([*chats, given]))
    assert found.severity == "warning"
    assert found.message.startswith("in 1 (20 %) of the rows")
    assert "chats.jsonl line 5" in found.message


def test_no_chat_template_is_a_warning_for_conversations_only(look, own_tokenizer):
    own_tokenizer.chat_template = None
    assert data_checks.chat_template(replace(look(), tokenizer=own_tokenizer)).severity == "warning"
    assert data_checks.chat_template(replace(look([{"text": "a b"}], "text"), tokenizer=own_tokenizer)) is None


def dropping(tokenizer, template: str):
    tokenizer.chat_template = template
    return tokenizer


def test_a_template_that_drops_the_system_turn_is_an_error_with_the_row(look, chats, own_tokenizer):
    system = copy.deepcopy(chats[1])
    system["messages"].insert(0, {"role": "system", "content": "You are a pirate."})
    template = "{% for m in messages if m['role'] != 'system' %}{{ m['content'] }}<|im_end|>\n{% endfor %}"
    found = data_checks.template_drops(replace(look([*chats, system]), tokenizer=dropping(own_tokenizer, template)))
    assert found.severity == "error"
    assert "leaves out what the system says in 1 (20 %) of the sampled conversations" in found.message
    assert found.example.startswith("chats.jsonl line 5:\nWhat is half")


def test_a_template_that_drops_a_called_function_is_an_error(look, own_tokenizer):
    call = '[{"type": "function", "function": {"name": "weather", "arguments": "{\\"city\\": \\"Bonn\\"}"}}]'
    messages = [
        {"role": "user", "content": "Is it raining in Bonn?"},
        {"role": "assistant", "content": "", "tool_calls": call},
        {"role": "tool", "content": '{"rain": false}'},
        {"role": "assistant", "content": "No."},
    ]
    run = look([{"messages": messages}])
    found = data_checks.template_drops(run)
    assert "a call of a function in 1 (100 %)" in found.message
    assert "such as hermes" in found.message
    template = (
        "{% for m in messages %}{% for c in m['tool_calls'] or [] %}{{ c | tojson }}{% endfor %}"
        "{{ m['content'] | tojson }}\n{% endfor %}"
    )
    assert data_checks.template_drops(replace(run, tokenizer=dropping(own_tokenizer, template))) is None


CALLED = [
    {"role": "user", "content": "Is it raining in Bonn?"},
    {"role": "assistant", "content": "", "tool_calls": '[{"name": "weather", "arguments": {"city": "Bonn"}}]'},
    {"role": "tool", "content": '{"rain": false}'},
    {"role": "assistant", "content": "No."},
]


def test_arguments_that_a_template_drops_are_an_error(look, own_tokenizer):
    names = "{% for c in m['tool_calls'] or [] %}{{ c.function.name }}{% endfor %}"
    template = f"{{% for m in messages %}}{names}{{{{ m['content'] }}}}\n{{% endfor %}}"
    run = replace(look([{"messages": CALLED}]), tokenizer=dropping(own_tokenizer, template))
    assert "a call of a function" in data_checks.template_drops(run).message


def test_results_of_tools_are_counted_and_not_trained(look, chats):
    run = look([*chats, {"messages": CALLED, "tools": TOOLS}])
    assert tool_checks.tool_results(run) is None
    assert tool_checks.counts(run) == {"sampled": 5, "rows": 1, "calls": 1, "tool_results": 1}
    assert tool_checks.sentence(tool_checks.counts(run)).endswith("1 calls and 1 results, and results are not trained.")
    row = run.encoded({run.sample[4]["id"]})[run.sample[4]["id"]][0]
    everything = replace(run, encoded=lambda ids: {name: [row | {"labels": row["input_ids"]}] for name in ids})
    found = tool_checks.tool_results(everything)
    assert found.severity == "error"
    assert "results of tools are trained in 1 (20 %) of the sampled rows" in found.message
    assert tool_checks.tool_results(look(chats)).severity == "skipped"
    assert tool_checks.counts(look(chats)) is None


def test_a_result_inside_an_answer_of_a_pair_is_an_error(look):
    pair = {"prompt": CALLED[:1], "chosen": CALLED[1:], "rejected": [{"role": "assistant", "content": "Yes."}]}
    found = tool_checks.tool_results(look([pair], "preference", run={"objective": "dpo"}))
    assert (found.severity, "inside an answer, which is trained whole" in found.message) == ("error", True)
    ended = {"prompt": CALLED[:3], "chosen": CALLED[3:], "rejected": pair["rejected"]}
    assert tool_checks.tool_results(look([ended], "preference", run={"objective": "dpo"})) is None


TOOLS = '[{"type": "function", "function": {"name": "weather", "description": "Of a city."}}]'


def test_functions_that_a_template_never_prints_are_an_error(look, own_tokenizer, chats):
    run = look([chats[0] | {"tools": TOOLS}, *chats[1:]])
    found = data_checks.template_drops(run)
    assert found.severity == "error"
    assert (
        "leaves out the functions that may be called (tools) in 1 (25 %) of the sampled conversations" in found.message
    )
    assert "`chat_template:`" in found.message
    template = "{% for tool in tools or [] %}{{ tool | tojson }}\n{% endfor %}" + own_tokenizer.chat_template
    assert data_checks.template_drops(replace(run, tokenizer=dropping(own_tokenizer, template))) is None


def test_thoughts_that_a_template_does_not_print_are_named(look, own_tokenizer, chats):
    turns = chats[1]["messages"]
    thinking = chats[1] | {"messages": [turns[0], turns[1] | {"reasoning_content": "Half of 48\nis 24."}]}
    run = look([chats[0], thinking, *chats[2:]])
    found = data_checks.dropped_thoughts(run)
    assert found.severity == "warning"
    assert (
        "leaves out the reasoning_content of 1 (25 %) of the sampled answers, first in chats.jsonl line 2"
        in found.message
    )
    template = "{% for m in messages %}{{ m.reasoning_content or '' }}\n{{ m.content }}{{ eos_token }}\n{% endfor %}"
    assert data_checks.dropped_thoughts(replace(run, tokenizer=dropping(own_tokenizer, template))) is None
    assert data_checks.dropped_thoughts(look()).severity == "skipped"


def test_a_bos_that_only_the_template_leaves_out_is_named(look, own_tokenizer):
    from tokenizers.processors import TemplateProcessing

    run = replace(look(), tokenizer=own_tokenizer)
    assert data_checks.missing_bos(run) is None  # this tokenizer adds none
    own_tokenizer.bos_token = "<|endoftext|>"
    special = [("<|endoftext|>", own_tokenizer.bos_token_id)]
    own_tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=special
    )
    found = data_checks.missing_bos(run)
    assert found.severity == "warning" and "puts <|endoftext|> before every text" in found.message
    with_bos = dropping(copy.deepcopy(own_tokenizer), "{{ bos_token }}" + own_tokenizer.chat_template)
    assert data_checks.missing_bos(replace(look(), tokenizer=with_bos)) is None


def test_thoughts_of_earlier_turns_may_be_dropped(look, own_tokenizer):
    messages = [
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "<think>easy</think>One."},
        {"role": "user", "content": "Two?"},
        {"role": "assistant", "content": "<think>hard</think>\n\nTwo."},
    ]
    keep = "{{ m['content'] if loop.last else m['content'].split('</think>')[-1] }}"
    template = "{% for m in messages %}" + keep + "\n{% endfor %}"
    run = replace(look([{"messages": messages}]), tokenizer=dropping(own_tokenizer, template))
    assert data_checks.template_drops(run) is None
    never = "{% for m in messages %}{{ m['content'].split('</think>')[-1] }}\n{% endfor %}"
    run = replace(look([{"messages": messages}]), tokenizer=dropping(copy.deepcopy(own_tokenizer), never))
    assert "what the assistant says" in data_checks.template_drops(run).message


# ---- the settings


@pytest.mark.parametrize(
    "arguments, model_type, message",
    [
        ({"packing": True}, "llama", None),
        ({"packing": True}, "mamba", "models of the type mamba have no attention for packed rows"),
    ],
)
def test_packing_needs_attention_that_knows_the_rows(look, arguments, model_type, message):
    run = look(run=arguments)
    found = settings_checks.packing(replace(run, model=run.model._replace(config={"model_type": model_type})))
    assert message in found.message if message else found is None


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"target_modules": ["q_porj", "v_proj"]}, "'q_porj' matches no module of the model; did you mean 'q_proj'?"),
        ({"target_modules": "q_proj"}, "PEFT takes a list of names, write [q_proj]"),
        ({"target_modules": "(q_proj"}, "is not a regular expression"),
        ({"target_modules": ["q_proj"], "peft_args": {"layers_to_transform": [2]}}, "'q_proj' matches no module"),
        ({"peft_args": {"modules_to_save": ["lm_haed"]}}, "modules_to_save: the model has no module 'lm_haed'"),
        ({"target_modules": ["q_proj"], "peft_args": {"layers_to_transform": [0, 7]}}, "no layer 7; the last one is 1"),
        ({"target_modules": ["q_proj"], "peft_args": {"modules_to_save": ["q_proj"]}}, "'q_proj' matches no module"),
        ({"target_modules": r".*\.(q|v)_proj"}, None),
        ({"target_modules": ["model.layers.0.mlp.up_proj", "embed_tokens"]}, None),
        ({"target_modules": ["q_proj"], "peft_args": {"layers_to_transform": 1, "layers_pattern": "layers"}}, None),
        ({"peft_args": {"modules_to_save": ["embed_tokens", "lm_head"]}}, None),
    ],
)
def test_names_of_modules_are_the_models(look, keys, message):
    found = settings_checks.target_modules(look(run=keys))
    assert message in found.message if message else found is None


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"learning_rate": 1e-2}, "so high that the loss may jump; sft by lora usually has 0.0001 to 0.0005"),
        ({"learning_rate": 1e-6}, "so low that little is learnt"),
        ({"method": "full", "learning_rate": 5e-4}, "sft by full usually has 4e-06 to 0.0001"),
        ({"learning_rate": 1e-4}, None),
        ({"learning_rate": 5e-4}, None),
        (on_policy(learning_rate=1e-5), None),
        (on_policy(learning_rate=5e-4), "grpo by lora usually has 1e-05 to 0.00025"),
    ],
)
def test_a_strange_learning_rate_is_a_warning(look, keys, message):
    found = settings_checks.learning_rate(look(run=keys))
    assert (message in found.message and found.severity == "warning") if message else found is None


def test_a_strange_rank_is_a_warning(look):
    assert "rank 4 means few parameters" in settings_checks.rank(look(run={"rank": 4})).message
    assert "rank 128 means more parameters than usual" in settings_checks.rank(look(run={"rank": 128})).message
    assert settings_checks.rank(look(run={"method": "vera"})) is None
    assert settings_checks.rank(look(run={"method": "full"})).severity == "skipped"


def test_every_default_is_in_its_own_range(look):
    from posttrain.methods import METHODS

    for method in METHODS:
        run = look(run={"method": method})
        assert settings_checks.learning_rate(run) is None
        found = settings_checks.rank(run)
        assert found is None or found.severity == "skipped"


def test_memory_names_the_first_change_that_fits(look):
    run = look(run={"batch_size": 8})
    need = settings_checks.needed(run, run.spec)
    assert settings_checks.memory(run) is None
    tight = need["total"] - 0.6 * need["activations"]
    found = settings_checks.memory(replace(run, memory=MACHINE._replace(free=int(tight), total=int(need["total"]))))
    assert found.severity == "warning"
    assert "; with gradient_accumulation_steps: " in found.message
    assert "are free on this machine" in found.message


def test_memory_of_several_processes_names_the_strategy_that_fits(look):
    run = replace(look(run={"method": "full", "batch_size": 4}), hardware=Hardware(2, "ddp"))
    shared = settings_checks.needed(run, run.spec, "fsdp")["total"]
    assert shared < settings_checks.needed(run, run.spec)["total"]
    found = settings_checks.memory(replace(run, memory=MACHINE._replace(free=int(shared) + 1)))
    assert "; with `hardware: {strategy: fsdp}` it would take " in found.message
    assert found.message.endswith(" GiB in each process")
    found = settings_checks.memory(replace(run, memory=MACHINE._replace(free=int(shared) - 1)))
    assert "strategy: fsdp" not in found.message


def test_another_nodes_memory_is_not_judged_by_this_ones(look, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv(slurm.VARIABLE, "120")
    run = look()
    assert settings_checks.memory(replace(run, memory=MACHINE._replace(free=1, total=1))).severity == "skipped"


def test_weights_that_cannot_fit_are_an_error(look):
    run = look(run={"method": "full"})
    least = settings_checks.needed(run, run.spec)["least"]
    found = settings_checks.memory(replace(run, memory=MACHINE._replace(free=int(least / 2), total=int(least) - 1)))
    assert found.severity == "error"
    assert "weights, gradients and optimiser states alone take" in found.message
    assert "no setting of this run makes it fit" in found.message  # the process itself takes more


def test_licences_are_read_of_every_part(look):
    run = look()
    parts = {"bases.base": "apache-2.0", "datasets.chats": None, "datasets.other": "my own terms"}
    found = data_checks.licence(replace(run, licences=parts))
    assert found.severity == "warning"
    assert "datasets.chats has no licence that is stated" in found.message
    assert "datasets.other (my own terms)" in found.message
    forbidding = replace(run, licences=parts | {"datasets.chats": "cc-by-nc-4.0"}, use="commercial")
    found = data_checks.licence(forbidding)
    assert found.severity == "error"
    assert "the licence of datasets.chats, cc-by-nc-4.0, forbids use: commercial" in found.message


# ---- what the evaluation will need

EVALUATION = {"max_length": 1024, "max_new_tokens": 20, "limit": 100, "data": [], "suites": {}}
LEARNT = {"transformer.wpe.weight": (128, 32)}


def foreseen(run, suites: dict | None = None, judges: dict | None = None, **model):
    """The finding of a run whose evaluation has these suites; `model` changes what its files say."""
    evaluation = EVALUATION | {"suites": suites or {}}
    return evaluation_checks.evaluation(
        replace(run, model=run.model._replace(**model), evaluation=evaluation, judges=judges or {})
    )


def test_an_evaluation_that_is_known_and_fits_passes(look):
    assert evaluation_checks.evaluation(look()).severity == "skipped"
    tasks = {"kind": "tasks", "chat": True}
    asked = {"kind": "generation", "max_new_tokens": 100}
    assert foreseen(look(), {"t": tasks, "g": asked}) is None


def test_an_evaluation_beyond_learnt_positions_is_an_error(look):
    run = look()
    found = foreseen(run, config={"n_positions": 128}, shapes=run.model.shapes | LEARNT)
    assert found.severity == "error"
    assert "the model has learnt 128 positions; write evaluation.max_length: 128" in found.message
    assert foreseen(run, config={"n_positions": 1024}, shapes=run.model.shapes | LEARNT) is None
    assert foreseen(run, config={"max_position_embeddings": 128}) is None  # computed positions go on


@pytest.mark.parametrize("key", ["rope_parameters", "rope_scaling"])
@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_positions_that_depend_on_the_batch_are_told_of(look, key, kind):
    config = {"max_position_embeddings": 8192, key: {"rope_type": kind, "original_max_position_embeddings": 512}}
    found = foreseen(look(), config=config)
    assert found.severity == "warning"
    assert f"positions are {kind}: past 512 tokens" in found.message
    config[key]["original_max_position_embeddings"] = 1024
    assert foreseen(look(), config=config) is None
    assert foreseen(look(), config={key: {"rope_type": "llama3", "original_max_position_embeddings": 512}}) is None


def test_tasks_in_a_chat_need_a_template(look, own_tokenizer):
    own_tokenizer.chat_template = None
    run = replace(look(), tokenizer=own_tokenizer)
    found = foreseen(run, {"quiz": {"kind": "tasks", "chat": True}})
    assert found.severity == "error"
    assert "evaluation.suites.quiz: `apply_chat_template: true` needs a chat template" in found.message
    assert foreseen(run, {"quiz": {"kind": "tasks", "chat": None}}) is None


def test_a_judge_with_another_tokenizer_is_an_error(look, own_tokenizer):
    suites = {"liked": {"kind": "reward", "by": {"name": "judge"}, "max_new_tokens": 9}}
    assert foreseen(look(), suites, {"liked": own_tokenizer}) is None
    own_tokenizer.add_tokens(["<extra>"])
    found = foreseen(look(), suites, {"liked": own_tokenizer})
    assert found.severity == "error"
    assert "evaluation.suites.liked: judge has another tokenizer" in found.message


def test_prompts_without_room_for_an_answer_are_told_of(look):
    run = look()
    longest = max(map(len, run.prompts))
    suites = {"g": {"kind": "generation", "max_new_tokens": 100}}
    assert foreseen(run, suites, config={"max_position_embeddings": run.longest + 100}) is None
    found = foreseen(run, suites, config={"max_position_embeddings": longest})
    assert found.severity == "warning"
    assert f"context of {longest}, and 1 leave none" in found.message


# ---- the rows that it measures


def told(run, measured: dict, suites: dict | None = None, limit: int = 100):
    """What is said of an evaluation on datasets with these data.json."""
    data = [{"name": name} for name in measured]
    evaluation = EVALUATION | {"data": data, "limit": limit, "suites": suites or {}}
    run = replace(run, evaluation=evaluation, measured=measured)
    return evaluation_checks.held_out(run), evaluation_checks.evaluation(run)


def holding(rows: int, shape: str = "messages") -> dict:
    return {"shape": shape, "validation": rows}


def test_what_few_held_out_rows_show_is_said_before_training(look):
    run = look()
    assert evaluation_checks.held_out(run).severity == "skipped"
    assert told(run, {"chats": holding(100)}) == (None, None)
    few, _ = told(run, {"chats": holding(12)})
    assert few.severity == "warning"
    assert few.message == (
        "chats holds out 12 rows, which show a difference in accuracy of 57.8 points or more between two models; write a larger "
        "`validation:` under it, or more rows"
    )
    assert "chats holds out 5 rows, too few to show any difference" in told(run, {"chats": holding(5)})[0].message
    asked = holding(99) | {"held_out_prompts": 12, "detectable": 0.578}
    assert "chats holds out 99 rows of 12 prompts, which show" in told(run, {"chats": asked})[0].message
    mixed = told(run, {"chats": holding(12) | {"parts": {}}})[0].message
    assert mixed.endswith("write a larger `validation:` under what it is made of, or more rows")
    cut, _ = told(run, {"chats": holding(500)}, limit=12)
    assert "evaluation.limit measures 12 of the 500 held-out rows of chats, which show" in cut.message


def test_datasets_of_which_nothing_is_measured_are_told_of(look):
    labelled, run = holding(50, "unpaired_preference"), look()
    found, _ = told(run, {"none": holding(0), "chats": labelled, "others": holding(100)})
    first, second = found.message.split("; write a larger `validation:` under it, or a file of rows; ")
    assert first == "none holds out no rows, so nothing is measured on it"
    assert second.startswith(
        "nothing is measured on chats, whose rows are unpaired_preference; name a dataset of text or"
    )
    assert told(run, {"of_another_run": labelled, "chats": holding(100)})[0] is None
    judge = look([PAIR], "preference", run={"objective": "reward"})
    assert "whose rows are messages; name a dataset of preference" in told(judge, {"chats": holding(50)})[0].message


def test_suites_that_their_rows_cannot_answer_are_errors(look):
    def suite(kind, **keys):
        return {"s": {"kind": kind, "data": {"name": "d"}, "limit": 9} | keys}

    for kind, shape, rows, sentence in (
        (
            "preference",
            "messages",
            50,
            "evaluation.suites.s.data: preference needs rows of type preference or image_preference, and d is messages",
        ),
        (
            "perplexity",
            "preference",
            50,
            "needs rows of type text or messages or image_messages or audio_messages, and d is preference",
        ),
        (
            "generation",
            "text",
            50,
            "needs rows of type messages or image_messages or audio_messages or preference or image_preference, and d is text",
        ),
        ("generation", "messages", 0, "evaluation.suites.s.data: d holds out no rows"),
    ):
        found = told(look(), {"d": holding(rows, shape)}, suite(kind))[1]
        assert found.severity == "error"
        assert sentence in found.message
    shots = suite("generation", shots=3, max_new_tokens=9)
    assert told(look(), {"d": holding(50) | {"shots": 3}}, shots)[1] is None
    found = told(look(), {"d": holding(50) | {"shots": 2}}, shots)[1]
    assert "num_fewshot is 3, and d has 2 training rows of one question and one answer" in found.message
    calls = suite("generation", metrics=["json", "tool_name", "tool_arguments"], max_new_tokens=9)
    assert told(look(), {"d": holding(50) | {"calls": 1}}, calls)[1] is None
    found = told(look(), {"d": holding(50) | {"calls": 0}}, calls)[1]
    assert "tool_arguments, tool_name compare tool calls, and no held-out row of d has one" in found.message


# ---- the system prompt

DEFAULT = "{% if messages[0].role != 'system' %}<|im_start|>system\nI am Tiny, made by Nobody.<|im_end|>\n{% endif %}"


def test_a_system_prompt_of_the_templates_own_is_told_of(look, own_tokenizer):
    run = replace(look(), tokenizer=own_tokenizer)
    assert data_checks.system_prompt(run) is None
    own_tokenizer.chat_template = DEFAULT + own_tokenizer.chat_template
    found = data_checks.system_prompt(run)
    assert found.severity == "warning"
    assert found.message.startswith(
        "4 (100 %) of the sampled rows have no system prompt, and the base's chat template writes"
    )
    assert "'I am Tiny, made by Nobody.'; write `system:` under the dataset" in found.message
    mixed = replace(run, data=run.data | {"format": "mix"})
    assert "under each dataset of the mixture" in data_checks.system_prompt(mixed).message
    given = [row | {"messages": [{"role": "system", "content": "Be kind."}, *row["messages"]]} for row in run.sample]
    assert data_checks.system_prompt(replace(run, sample=given)) is None


def test_near_rows_that_are_kept_are_told_of_where_they_are_many(look):
    run = look()
    near = {"similarity": 0.8, "rows": 2, "same_answer": 1, "left_out": False, "examples": []}
    found = token_checks.repeated_rows(replace(run, data=run.data | {"near": near}))
    assert found.severity == "warning"
    assert "1 (25 %) of the data's rows are 80% like an earlier one" in found.message
    assert "write near_duplicates: 0.8 under the dataset" in found.message
    assert token_checks.repeated_rows(replace(run, data=run.data | {"near": near | {"same_answer": 0}})) is None


# ---- what is measured while it trains


@pytest.mark.parametrize(
    ("unseen", "keys", "result", "text"),
    [
        (200, {}, "skipped", "nothing is measured while the run trains"),
        (200, {"keep": "best", "epochs": 9}, "passed", ""),
        (0, {"keep": "best"}, "error", "chats holds no row out to measure"),
        (200, {"early_stopping": {}, "batch_size": 2}, "error", "patience 3 can never end a training of 2 steps"),
        (20, {"keep": "best"}, "warning", "loss is measured on 20 held-out rows, so that chance may choose the step"),
    ],
)
def test_what_is_measured_on_the_way_is_there_and_is_enough(look, unseen, keys, result, text):
    run = look(run=keys)
    run.token_report["validation"] = {"rows": unseen}
    (found,) = [one for one in check(run, []) if one["name"] == "measuring"]
    assert found["result"] == result and text in found["message"]


def test_rows_by_which_a_step_is_chosen_and_evaluated_are_told(look):
    run = look(run={"keep": "best"})
    run.token_report["validation"] = {"rows": 150}
    run.evaluation |= {"data": [{"name": "chats"}], "limit": 100, "suites": {}, "max_length": 64}
    (found,) = [one for one in check(run, []) if one["name"] == "measuring"]
    assert found["message"].startswith("50 of the 100 held-out rows by which the step is chosen are evaluated as well")


# ---- environments

HERMES = Path(__file__).resolve().parents[3] / "scripts/posttrain/models/templates/hermes.jinja"
TASKS = [{"prompt": [{"role": "user", "content": f"Compute {i}"}], "task": json.dumps({"answer": i})} for i in range(3)]


@pytest.fixture
def acting(look, own_tokenizer):
    """What is found of a run in an environment."""

    def at(environment="calculator", rows=TASKS, template=None, **keys):
        run = {"objective": "grpo", "environment": environment, "max_new_tokens": 64, "max_length": 1024} | keys
        context = look(rows, "tasks", run=run)
        own_tokenizer.chat_template = template or HERMES.read_text()
        context.tokenizer = own_tokenizer
        return CHECKS["environment"].find(context)

    return at


def test_an_environment_that_can_be_begun_and_rewarded_is_all_right(acting):
    assert acting() is None


def test_a_template_without_tools_an_unfit_task_and_a_bad_class_are_errors(acting, random_tiny_folder):
    silent = acting(template=load_tokenizer(random_tiny_folder).chat_template)
    assert silent.severity == "error" and "does not show the tool 'calculate' of calculator" in silent.message
    unfit = acting("sqlite")
    assert unfit.severity == "error" and "sqlite failed in `reset` for the task" in unfit.message
    Path("world.py").write_text("class World:\n    def reset(self): pass\n")
    assert "has no method `get_reward`" in acting("world.py:World").message
    long = acting(max_length=80)
    assert "there is room for 16" in long.message

"""Scores against a plain loop over sequences, and generation against step-by-step argmax."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from posttrain.data.tokens import prompt_tokens, sft_tokens
from posttrain.inference import scoring
from posttrain.inference.scoring import answer, generate, log_probs
from posttrain.models import shared_prefix
from posttrain.models.lm_head import LogProbs

pytestmark = pytest.mark.usefixtures("fp32")


@pytest.fixture
def model(random_tiny_model):
    return random_tiny_model.eval()


def sequences() -> list:
    """Answers of many lengths after prompts of many lengths."""
    generator = torch.Generator().manual_seed(0)

    def ids(n: int) -> list[int]:
        return torch.randint(3, 290, (n,), generator=generator).tolist()

    return [
        answer(ids(prompt), ids(completion))
        for prompt, completion in ((3, 9), (12, 1), (1, 1), (5, 30), (7, 7), (2, 9))
    ]


def naive(model, sequence) -> tuple[float, int]:
    """One sequence alone, position by position, from the model's own logits."""
    ids, labels = sequence
    with torch.no_grad():
        distribution = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
    scored = [i for i in range(1, len(ids)) if labels[i] != -100]
    return sum(distribution[i - 1, ids[i]].item() for i in scored), len(scored)


def close(ours: list, expected: list) -> bool:
    totals = torch.tensor([[total for total, _ in rows] for rows in (ours, expected)])
    return [n for _, n in ours] == [n for _, n in expected] and torch.allclose(
        totals[0], totals[1], rtol=1e-5, atol=1e-4
    )


def test_an_answer_is_scored_and_its_prompt_is_not():
    assert answer([1, 2], [3, 4]) == ((1, 2, 3, 4), (-100, -100, 3, 4))


def test_scores_are_those_of_a_plain_loop_in_the_order_given(model):
    assert close(log_probs(model, sequences(), 4096), [naive(model, sequence) for sequence in sequences()])


def test_labels_may_have_gaps_and_the_first_token_is_never_scored(model):
    ids = tuple(range(20, 32))
    labels = tuple(token if i % 3 == 0 else -100 for i, token in enumerate(ids))
    assert close(log_probs(model, [(ids, labels)], 4096), [naive(model, (ids, labels))])
    assert log_probs(model, [(ids, labels)], 4096)[0][1] == 3  # of 0, 3, 6 and 9


def test_an_sft_row_is_scored_on_its_trained_tokens(model, random_tiny_tokenizer, chats):
    rows = [tuple(map(tuple, row)) for row in sft_tokens(random_tiny_tokenizer, chats)]
    assert close(log_probs(model, rows, 4096), [naive(model, row) for row in rows])


@pytest.mark.parametrize("batch_tokens", [1, 40, 100])
def test_the_batch_does_not_matter(model, batch_tokens):
    assert close(log_probs(model, sequences(), batch_tokens), log_probs(model, sequences(), 4096))


def test_equal_sequences_are_scored_once(model):
    shapes = []
    scoring.is_whole(model)  # looks at the model once, on tokens of its own
    model.base_model.register_forward_pre_hook(
        lambda _, __, kwargs: shapes.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    scores = log_probs(model, [*sequences(), *sequences(), sequences()[0]], 4096)
    assert sum(rows for rows, _ in shapes) == len(sequences())
    assert scores == [*scores[:6], *scores[:6], scores[0]]


def test_the_same_ids_with_other_labels_are_another_sequence(model):
    one, other = answer([5, 6], [7, 8]), answer([5, 6, 7], [8])
    scores = log_probs(model, [one, other], 4096)
    assert [n for _, n in scores] == [2, 1]
    assert close(scores, [naive(model, one), naive(model, other)])


def test_nothing_to_score_is_no_scores(model):
    assert log_probs(model, [], 4096) == []


def pairs() -> list:
    """Chosen and rejected answers of three prompts, which begin alike and differ in length, not side by side."""
    prompts, answers = ([7, 8, 9, 10, 11], [30, 31], [40, 41, 42]), ([20, 21, 22], [60, 61], [20, 99, 98, 97])
    return [answer(prompt, completion) for completion in answers for prompt in prompts]


def test_answers_that_begin_alike_are_scored_as_if_alone_and_their_beginning_computed_once(model):
    tokens = []
    scoring.is_whole(model)
    model.base_model.register_forward_pre_hook(
        lambda _, __, kw: tokens.append(kw["input_ids"].numel()), with_kwargs=True
    )
    scores = log_probs(model, pairs(), 1)  # one group a batch, so that nothing is padded
    assert sum(tokens) < sum(len(ids) for ids, _ in pairs())
    assert close(scores, [naive(model, sequence) for sequence in pairs()])
    assert close(log_probs(model, pairs(), 4096), scores)


def choices() -> list:
    """Answers of one to four tokens after three long questions, which begin alike as well; some differ in the last token only."""
    system, tails = list(range(10, 40)), ([50, 51], [60] * 9, [70, 71, 72])
    answers = ([80], [81], [82, 83, 84], [82, 83, 85, 86])
    return [answer([*system, *tail], completion) for completion in answers for tail in tails]


def test_many_answers_to_a_question_are_scored_as_if_alone_and_their_questions_computed_once(model):
    tokens = []
    scoring.is_whole(model)
    model.base_model.register_forward_pre_hook(
        lambda _, __, kw: tokens.append(kw["input_ids"].numel()), with_kwargs=True
    )
    expected = [naive(model, sequence) for sequence in choices()]
    tokens.clear()
    found = log_probs(model, choices(), 4096)
    assert close(found, expected)
    assert sum(tokens) == 30 + (2 + 9 + 3) + 3 * 3  # after each question 82, 83 and 85; nothing follows a last token
    assert close(log_probs(model, choices(), 60), expected)


@pytest.mark.parametrize("sequences", [sequences, choices])
def test_it_is_told_whether_greedy_decoding_gives_the_labels(model, sequences):
    for parameter in model.parameters():
        parameter.data.mul_(3)
    top = []
    for ids, labels in sequences():
        with torch.no_grad():
            likeliest = model(input_ids=torch.tensor([ids])).logits[0].argmax(-1).tolist()
        top.append(all(label in (-100, token) for token, label in zip(likeliest, labels[1:], strict=False)))
        first = labels.index(next(label for label in labels if label != -100))
        known = (*ids[:first], likeliest[first - 1])
        assert scoring.scores(model, [answer(known[:-1], known[-1:])], 64)[0].greedy
    assert [score.greedy for score in scoring.scores(model, sequences(), 4096)] == top


def test_the_vocabulary_s_logits_are_never_all_there_at_once(model, monkeypatch):
    expected = log_probs(model, sequences(), 4096)
    monkeypatch.setattr(scoring, "TARGETS", 5)
    largest = []
    apply = LogProbs.apply
    monkeypatch.setattr(LogProbs, "apply", lambda hidden, *rest: largest.append(len(hidden)) or apply(hidden, *rest))
    assert close(log_probs(model, sequences(), 4096), expected)
    assert max(largest) == 5


@pytest.mark.parametrize("limit", [1, 10, 33, 1000])
def test_batches_hold_every_group_once_and_stay_within_their_size(limit):
    rows = sorted({ids for ids, _ in [*sequences(), *pairs(), *choices()]})
    groups = shared_prefix.groups(rows, 32, 4096)
    assert {len(group) for group in groups} >= {1, 3, 12}
    batches = list(scoring._batches(groups, rows, limit))
    assert sorted(group for batch in batches for group in batch) == sorted(groups)
    for batch in batches:
        packed = shared_prefix.pack(rows, batch, pad=0)
        assert len(batch) == 1 or packed.ids.numel() <= limit
        assert len({len(group) == 1 for group in batch}) == 1


HEADS = {
    "granite scales its logits": ("granite", {"logits_scaling": 4.0}),
    "cohere scales its logits": ("cohere", {"logit_scale": 0.25}),
    "mixtral has a router": ("mixtral", {"num_local_experts": 2, "num_experts_per_tok": 1}),
}
SIZES = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
    "vocab_size": 384, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


@pytest.mark.parametrize("case", HEADS)
@pytest.mark.parametrize(
    "sequences",
    [
        sequences,
        pairs,
    ],
)
def test_an_architecture_with_a_head_of_its_own_is_scored_from_its_logits(case, sequences):
    kind, settings = HEADS[case]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SIZES, **settings)).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(4)
    assert close(log_probs(model, sequences(), 4096), [naive(model, sequence) for sequence in sequences()])


# ---- generation

PROMPTS = ["How many clips did Natalia sell?", "And another one?", "Name a fruit."]


def asked(tokenizer) -> list[list[int]]:
    return [prompt_tokens(tokenizer, [{"role": "user", "content": prompt}]) for prompt in PROMPTS]


def step_by_step(model, tokenizer, prompt: list[int], n: int) -> str:
    """Greedy decoding of one prompt without a cache."""
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(n):
            token = model(input_ids=torch.tensor([ids])).logits[0, -1].argmax().item()
            if token == tokenizer.eos_token_id:
                break
            ids.append(token)
    return tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True)


@pytest.mark.parametrize("at_once", [1, 2, 32])
def test_greedy_answers_are_the_step_by_step_argmax_of_each_prompt_alone(
    model, random_tiny_tokenizer, at_once, monkeypatch
):
    monkeypatch.setattr(scoring, "PROMPTS", at_once)
    torch.manual_seed(0)
    for parameter in model.parameters():  # first weights are so small that every next token is about equally likely
        parameter.data.mul_(3)
    prompts = asked(random_tiny_tokenizer)
    assert len({len(prompt) for prompt in prompts}) == 3
    expected = [step_by_step(model, random_tiny_tokenizer, prompt, 12) for prompt in prompts]
    assert len(set(expected)) > 1
    assert generate(model, random_tiny_tokenizer, prompts, 12) == expected


def test_an_answer_that_was_learnt_is_given_without_its_stop_token(model, random_tiny_tokenizer):
    texts = ["A pear.", "An apple is a fruit."]
    rows = [
        {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": text}]}
        for prompt, text in zip(PROMPTS, texts, strict=False)
    ]
    encoded = list(sft_tokens(random_tiny_tokenizer, rows))
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(40):
        for ids, labels in encoded:
            model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    assert generate(model, random_tiny_tokenizer, asked(random_tiny_tokenizer)[:2], 64) == texts


def lively(model) -> Any:
    """The same model with larger weights, so that answers differ: at first every next token is about equally likely."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.data.mul_(3)
    return model


def many() -> list[list[int]]:
    """Prompts of many lengths, some of which begin alike."""
    return [list(ids) for ids, _ in [*sequences(), *choices()]]


@pytest.mark.parametrize(("span", "at_once"), [(1, 5), (4, 32), (100, 5)])
def test_answers_that_end_early_leave_and_the_others_go_on_unchanged(
    model, random_tiny_tokenizer, span, at_once, monkeypatch
):
    lively(model).generation_config.eos_token_id = [2, 7, 11, 15, 60]
    expected = [generate(model, random_tiny_tokenizer, [prompt], 20) for prompt in many()]
    lengths = {len(text) for [text] in expected}
    assert len(lengths) > 5
    monkeypatch.setattr(scoring, "SPAN", span)
    monkeypatch.setattr(scoring, "PROMPTS", at_once)
    assert [[text] for text in generate(model, random_tiny_tokenizer, many(), 20)] == expected


def test_a_row_that_has_ended_costs_nothing(model, random_tiny_tokenizer, monkeypatch):
    lively(model).generation_config.eos_token_id = [2, 7, 11, 15, 60]
    monkeypatch.setattr(scoring, "SPAN", 4)
    rows = []
    model.base_model.register_forward_pre_hook(lambda _, __, kw: rows.append(len(kw["input_ids"])), with_kwargs=True)
    generate(model, random_tiny_tokenizer, many(), 20)
    assert rows[-1] < rows[1] == len(many())
    assert rows[1:] == sorted(rows[1:], reverse=True)


def test_what_all_prompts_begin_with_is_computed_once(model, random_tiny_tokenizer):
    shapes = []
    model.base_model.register_forward_pre_hook(
        lambda _, __, kw: shapes.append(tuple(kw["input_ids"].shape)), with_kwargs=True
    )
    prompts = [[*range(10, 40), *own] for own in ([50], [51, 52], [53, 54, 55])]
    generate(model, random_tiny_tokenizer, prompts, 3)
    assert shapes[:3] == [(1, 30), (3, 3), (3, 1)]


def test_the_order_of_the_prompts_does_not_matter(model, random_tiny_tokenizer, monkeypatch):
    monkeypatch.setattr(scoring, "PROMPTS", 4)
    forward = generate(lively(model), random_tiny_tokenizer, many(), 8)
    assert generate(model, random_tiny_tokenizer, many()[::-1], 8) == forward[::-1]
    batches = [[many()[i] for i in batch] for batch in scoring.prompt_batches(many(), 8)]
    assert [[many()[::-1][i] for i in batch] for batch in scoring.prompt_batches(many()[::-1], 8)] == batches


def test_a_batch_is_bounded_in_tokens(monkeypatch):
    monkeypatch.setattr(scoring, "TOKENS", 100)
    prompts = [[1] * n for n in (90, 20, 20, 20, 20, 5)]
    assert list(scoring.prompt_batches(prompts, 10)) == [[0], [1, 2, 3], [4, 5]]


def test_an_answer_is_cut_before_a_stop_text(model, random_tiny_tokenizer):
    whole = generate(lively(model), random_tiny_tokenizer, many(), 20)
    letters = [letter for letter in "".join(whole) if letter.isascii() and letter.isalnum()]
    stop = tuple(sorted(set(letters), key=letters.count)[-2:])
    expected = [text.split(stop[0])[0].split(stop[1])[0] for text in whole]
    assert sum(text != cut for text, cut in zip(whole, expected, strict=True)) > 5
    assert generate(model, random_tiny_tokenizer, many(), 20, stop) == expected


def test_a_stop_text_ends_the_batch_and_may_be_a_special_token_s(model, random_tiny_tokenizer, monkeypatch):
    monkeypatch.setattr(scoring, "SPAN", 2)
    steps = []
    model.base_model.register_forward_pre_hook(lambda *_: steps.append(1))
    head = model.get_output_embeddings().weight
    special = random_tiny_tokenizer.convert_tokens_to_ids("<|im_start|>")
    head.data[special] = 0.0
    model.base_model.norm.weight.data.zero_()  # every token is as likely as any other, so that the first one is chosen
    first = random_tiny_tokenizer.decode([0])
    assert generate(model, random_tiny_tokenizer, [[20], [30, 31]], 20, (first,)) == ["", ""]
    assert len(steps) == 2
    assert random_tiny_tokenizer.decode([0], skip_special_tokens=True) == ""


def test_no_more_tokens_than_asked_for_are_generated(model, random_tiny_tokenizer):
    outputs = generate(model, random_tiny_tokenizer, asked(random_tiny_tokenizer), 3)
    expected = [step_by_step(model, random_tiny_tokenizer, prompt, 3) for prompt in asked(random_tiny_tokenizer)]
    assert outputs == expected


def test_an_answer_ends_at_any_of_the_models_and_the_tokenizers_stop_tokens(model, random_tiny_tokenizer):
    own = random_tiny_tokenizer.eos_token_id
    model.generation_config.eos_token_id = [7, own]
    assert scoring.stop_tokens(model, random_tiny_tokenizer) == sorted([7, own])
    model.generation_config.eos_token_id = 9
    assert scoring.stop_tokens(model, random_tiny_tokenizer) == sorted([9, own])
    model.generation_config.eos_token_id = None
    assert scoring.stop_tokens(model, random_tiny_tokenizer) == [own]


def test_what_follows_a_stop_token_is_padding(model, random_tiny_tokenizer):
    prompts = [[20, 21, 22, 23], [30]]
    greedy = {"do_sample": False, "max_new_tokens": 6}
    free = scoring.continue_prompts(model, random_tiny_tokenizer, prompts, [383], **greedy).tolist()
    stop = next(token for token in free[0] if token not in free[1])
    stopped = scoring.continue_prompts(model, random_tiny_tokenizer, prompts, [stop], **greedy).tolist()
    end = free[0].index(stop) + 1
    assert stopped[0] == free[0][:end] + [random_tiny_tokenizer.pad_token_id] * (6 - end)
    assert stopped[1] == free[1]


def test_nothing_to_ask_is_no_answers(model, random_tiny_tokenizer):
    assert generate(model, random_tiny_tokenizer, [], 3) == []

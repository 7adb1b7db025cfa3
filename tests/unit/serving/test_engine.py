"""Requests that are answered together get the answers that each gets alone, whenever they join and leave."""

import queue

import pytest
import tiny_bases
import zoo
from peft import PrefixTuningConfig, get_peft_model

from posttrain.inference import scoring
from posttrain.models import loading
from posttrain.serving.backends import Options
from posttrain.serving.engine import Engine, Request

PROMPTS = ["the cat", "what time is it, Question", "Answer", "sat on the mat and asked what time it is, " * 3]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_bases.save(folder, tiny_bases.chatml())
    return loading.load(folder, arithmetic="fp32").eval(), loading.tokenizer(folder)


@pytest.fixture(scope="module")
def engine(model):
    engine = Engine(*model)
    engine.start()
    yield engine
    engine.stop()
    engine.join(10)
    assert not engine.is_alive()


class Asked:
    """A request whose tokens are collected."""

    def __init__(self, prompt, most=24, temperature=0.0, top_p=1.0, seed=None) -> None:
        self._found = queue.SimpleQueue()
        options = Options(most, temperature, top_p, seed, None)
        self.request = Request(prompt, options, lambda ids, end: self._found.put((ids, end)))

    def next(self) -> tuple[list[int], str | None]:
        return self._found.get(timeout=60)

    def all(self) -> tuple[list[int], str]:
        ids, end = [], None
        while end is None:
            more, end = self.next()
            ids += more
        return ids, end


def encoded(tokenizer, texts=PROMPTS):
    return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]


def test_answers_that_join_and_leave_are_those_of_batch_inference(model, engine):
    prompts = encoded(model[1]) * 3
    lengths = [3, 40, 11, 24, 60, 7, 1, 33, 50, 2, 18, 29]
    asked = [Asked(prompt, most) for prompt, most in zip(prompts, lengths, strict=True)]
    for number, one in enumerate(asked):
        engine.submit(one.request)
        if number % 3 == 2:  # the ones before are running when the next ones come
            one.next_seen = one.next()
    for one, prompt, most in zip(asked, prompts, lengths, strict=True):
        ids, end = getattr(one, "next_seen", ([], None))
        if end is None:
            more, end = one.all()
            ids = ids + more
        expected = scoring.generate_batch(*model, [prompt], most)[0]
        assert ids == expected.ids
        assert end == ("stop" if expected.ended else "length")


def test_a_seed_decides_a_sample_whatever_runs_beside_it(model, engine):
    prompt = encoded(model[1])[1]

    def sampled(seed, others=0):
        asked = [Asked(prompt, 16, 1.0, 0.9, seed), *(Asked(prompt, 16, 1.5, 1.0, 100 + i) for i in range(others))]
        for one in asked:
            engine.submit(one.request)
        return [one.all()[0] for one in asked][:1][0]

    assert sampled(1) == sampled(1, others=5) != sampled(2)
    assert len({tuple(sampled(None)) for _ in range(3)}) == 3


def test_a_request_that_nobody_waits_for_is_dropped(model, engine):
    prompt = encoded(model[1])[0]
    gone, other = Asked(prompt, 200), Asked(prompt, 5)
    engine.submit(gone.request)
    gone.next()
    gone.request.cancelled = True
    engine.submit(other.request)
    assert len(other.all()[0]) == 5
    # A later one is answered after the engine has dropped it, long before its 200 tokens.
    last = Asked(prompt, 5)
    engine.submit(last.request)
    last.all()
    assert gone.request.left > 100


def prefix_tuned(folder):
    """A model with an adapter that cannot be merged."""
    tiny_bases.save(folder, tiny_bases.chatml())
    config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    return get_peft_model(loading.load(folder, arithmetic="fp32"), config).eval()


@pytest.mark.parametrize("family", ["gemma3", "gpt2", "prefix"])
def test_what_cannot_be_joined_is_answered_one_after_the_other(family, tmp_path):
    folder = tmp_path / "base" if family == "prefix" else zoo.build(family, tmp_path / "base")
    model = prefix_tuned(folder) if family == "prefix" else loading.load(folder, arithmetic="fp32").eval()
    tokenizer = loading.tokenizer(folder)
    engine = Engine(model, tokenizer)
    assert not engine._joins
    engine.start()
    asked = [Asked(prompt, 6) for prompt in encoded(tokenizer)]
    for one in asked:
        engine.submit(one.request)
    answers = [one.all()[0] for one in asked]
    engine.stop()
    engine.join(10)  # PEFT changes its model while that generates: not beside another thread
    expected = [scoring.generate_batch(model, tokenizer, [prompt], 6)[0].ids for prompt in encoded(tokenizer)]
    assert answers == expected

"""A base's chat template is a program of its author's: it reaches nothing, and ends."""

import time

import pytest

from posttrain.data import conversations, tokens
from posttrain.runtime import resource_limits
from posttrain.runtime.errors import UserError
from security.hostile import TEMPLATES

TURNS = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
LOOPS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
# template -> what the sentence says
HARM = [
    (LOOPS, "exceeded the 0.5 s CPU limit"),
    ("{{ (messages | string | length) ** (10 ** 8) }}", "exceeded the 0.5 s CPU limit"),
    ("{{ 'x' * 10 ** 10 }}", "exceeded the memory limit"),
    ("{{ '%9999999999d' % 1 }}", "exceeded the memory limit"),
    ("{{ ('a' * 50000) | replace('a', 'b' * 50000) }}", "exceeded the memory limit"),
    ("{% for i in range(99999) %}{{ 'x' * 100000 }}{% endfor %}", "exceeded the memory limit"),
    ("{{ 'x' * 20000000 }}", "makes 20,000,000 characters of a conversation"),
    ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "recursion"),
    ("{" * 100_000, "recursion"),
    ("{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "recursion"),
    ("{{ ''.__class__.__mro__ }}", "unsafe"),
    ("{{ messages.append(1) }}", "unsafe"),
    ("{{ messages[0].update(content='x') }}", "unsafe"),
    ("{{ cycler.__init__.__globals__.os.system('touch CANARY') }}", "unsafe"),
    ("{{ lipsum.__globals__['os'].system('touch CANARY') }}", "unsafe"),
    ("{% include '/etc/passwd' %}", "no loader"),
    ("{{ raise_exception('no\nusers') }}", "refuses a conversation: no\\nusers"),
]


@pytest.fixture
def soon(monkeypatch):
    """Less time than a user's conversation has, for what never ends."""
    monkeypatch.setattr(conversations, "RENDER_SECONDS", 0.5)


@pytest.mark.parametrize(("template", "sentence"), HARM, ids=[template[:40] for template, _ in HARM])
def test_a_template_that_does_harm_ends_in_a_sentence(in_folder, random_tiny_tokenizer, template, sentence, request):
    if "CPU limit" in sentence:
        request.getfixturevalue("soon")
    random_tiny_tokenizer.chat_template = template
    with pytest.raises(UserError) as error:
        tokens.render(random_tiny_tokenizer, TURNS)
    assert sentence in str(error.value) and "\n" not in str(error.value)
    assert not list(in_folder.iterdir())


def test_a_template_ends_as_well_inside_a_block_of_rows(random_tiny_tokenizer, soon):
    random_tiny_tokenizer.chat_template = LOOPS
    with pytest.raises(UserError, match="CPU limit"):
        tokens.tokenise(random_tiny_tokenizer, [{"id": "1", "messages": TURNS}], "messages", 64)


def work(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_the_limits_are_gone_after_the_block(random_tiny_tokenizer):
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    for _ in range(2):
        with pytest.raises(UserError), resource_limits.limited("it", 0.05, 1 << 30):
            work(60)
        assert resource.getrlimit(resource.RLIMIT_AS) == before
    work(0.1)  # the timer is off
    tokens.tokenise(random_tiny_tokenizer, [{"id": "1", "messages": TURNS}], "messages", 64)
    assert resource.getrlimit(resource.RLIMIT_AS) == before


def test_every_hostile_template_is_rendered_or_refused_in_a_sentence(in_folder, random_tiny_tokenizer):
    for template in TEMPLATES:
        random_tiny_tokenizer.chat_template = template
        try:
            assert isinstance(tokens.render(random_tiny_tokenizer, TURNS), str)
        except UserError as error:
            assert "\n" not in str(error)
    assert not list(in_folder.iterdir())


def test_what_a_row_says_is_no_template(random_tiny_tokenizer):
    for template in TEMPLATES:
        turns = [{"role": "user", "content": template}, {"role": "assistant", "content": template}]
        assert tokens.render(random_tiny_tokenizer, turns).count(template) == 2

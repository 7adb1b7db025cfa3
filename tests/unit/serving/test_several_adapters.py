"""Several adapters on one base in one process: each answer is that of its own merged model, whoever else asks meanwhile."""

import random
import threading
from pathlib import Path
from queue import SimpleQueue

import openai
import pytest
import torch
from loopback import running
from peft import LoraConfig, get_peft_model

from posttrain.data.tokens import prompt_tokens
from posttrain.inference import scoring
from posttrain.models import adapters, loading
from posttrain.runtime.atomic import write_json
from posttrain.runtime.errors import UserError
from posttrain.runtime.hashes import folder_hashes
from posttrain.serving import engine, in_process
from posttrain.serving.app import Served, Server
from posttrain.serving.backends import Options
from posttrain.serving.engine import Engine, Request

KINDS = {"one": {}, "dropout=0.05,rank=2": {"r": 2, "target_modules": ["q_proj"]}, "third": {"use_rslora": True}}
THREADS, EACH = 16, 3


def fp32(folder: Path):
    return loading.load(folder, torch.float32, arithmetic="fp32").eval()


def adapter(base: Path, folder: Path, seed: int, **changes):
    """Write an adapter with random matrices as an export; returns its merged model."""
    torch.manual_seed(seed)
    settings = {"r": 4, "lora_alpha": 16, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | changes
    model = get_peft_model(fp32(base), LoraConfig(**settings))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.3 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    files = adapters.weights(folder_hashes(base))
    write_json(folder / "posttrain.json", {"reward": False, "base": {"name": "base", "files": files, "held": None}})
    return model.merge_and_unload().eval()


@pytest.fixture(scope="module")
def exported(random_tiny_folder, tmp_path_factory) -> tuple[dict, dict]:
    """Folders of three adapters, and the models that they and the base are, merged."""
    folder = tmp_path_factory.mktemp("adapters")
    folders = {name: folder / str(i) for i, name in enumerate(KINDS)}
    models = {name: adapter(random_tiny_folder, folders[name], i, **KINDS[name]) for i, name in enumerate(KINDS)}
    return folders, models | {"base": fp32(random_tiny_folder)}


def ask(running: Engine, adapter: str | None, prompt: list[int], most: int) -> list[int]:
    """An answer's tokens, waiting for them in this thread."""
    found: SimpleQueue = SimpleQueue()
    options = Options(most=most, temperature=0.0, top_p=1.0, seed=None, schema=None)
    running.submit(Request(prompt, options, lambda ids, end: found.put((ids, end)), adapter))
    tokens, end = [], None
    while end is None:
        ids, end = found.get(timeout=60)
        tokens += ids
    assert end in ("stop", "length"), end
    return tokens


@pytest.mark.parametrize("joins", [True, False])
def test_each_of_16_threads_gets_the_answers_of_its_own_adapter(exported, random_tiny_folder, monkeypatch, joins):
    folders, merged = exported
    model, internal = adapters.load_several(random_tiny_folder, folders, base_name="base")
    assert set(internal) == {*KINDS, "base"}
    monkeypatch.setattr(engine.shared_prefix, "can_share", lambda model: joins)
    tokenizer = loading.tokenizer(random_tiny_folder)
    running, mixed = Engine(model, tokenizer, frozenset(internal.values())), []
    named = engine._named
    monkeypatch.setattr(engine, "_named", lambda rows: mixed.append({row.adapter for row in rows}) or named(rows))
    running.start()
    draw = random.Random(0)
    requests = [
        (
            draw.choice([*KINDS, "base"]),
            [draw.randrange(5, 300) for _ in range(draw.randrange(1, 30))],
            draw.randrange(1, 16),
        )
        for _ in range(THREADS * EACH)
    ]
    answers: list = [None] * len(requests)

    def client(first: int) -> None:
        for i in range(first, len(requests), THREADS):
            name, prompt, most = requests[i]
            answers[i] = ask(running, internal[name], prompt, most)

    threads = [threading.Thread(target=client, args=(i,)) for i in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    running.stop()
    wanted = [scoring.generate_batch(merged[name], tokenizer, [prompt], most)[0].ids for name, prompt, most in requests]
    assert answers == wanted
    others = [scoring.generate_batch(merged["base"], tokenizer, [prompt], most)[0].ids for _, prompt, most in requests]
    assert sum(a != b for a, b in zip(others, wanted, strict=True)) > THREADS  # so that a mix-up would be seen
    assert (max(map(len, mixed)) > 1) == joins


def test_the_server_has_a_model_for_each_adapter(exported, random_tiny_folder):
    folders, merged = exported
    backend, tokenizer = (
        in_process.load_adapters(random_tiny_folder, folders, "base", 64),
        loading.tokenizer(random_tiny_folder),
    )
    names = [*KINDS, "base"] * 3
    found: dict[int, str] = {}
    with running(Server(backend, {name: Served(tokenizer, None) for name in names[:4]}, None)) as url:
        client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
        assert {model.id for model in client.models.list()} == set(names)

        def ask(i: int) -> None:
            options = {
                "model": names[i],
                "messages": [{"role": "user", "content": "What is half of 48?"}],
                "max_tokens": 8,
            }
            found[i] = client.chat.completions.create(**options).choices[0].message.content

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(names))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    backend._engine.stop()
    prompt = prompt_tokens(tokenizer, [{"role": "user", "content": "What is half of 48?"}])
    answers = {name: scoring.generate(model, tokenizer, [prompt], 8)[0] for name, model in merged.items()}
    assert [found[i] for i in range(len(names))] == [answers[name] for name in names]
    assert len(set(answers.values())) > 2


@pytest.mark.parametrize("name", [None, "adapter_9", "one"])
def test_a_request_without_a_loaded_adapter_is_refused(exported, random_tiny_folder, name):
    model, internal = adapters.load_several(random_tiny_folder, exported[0])
    running = Engine(model, loading.tokenizer(random_tiny_folder), frozenset(internal.values()))
    with pytest.raises(ValueError, match="no adapter"):
        ask(running, name, [5, 6], 2)


@pytest.mark.parametrize(
    ("changes", "special"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"trainable_token_indices": [5]}, "trainable_token_indices"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
    ],
)
def test_what_peft_cannot_mix_is_refused_with_the_reason(exported, random_tiny_folder, tmp_path, changes, special):
    adapter(random_tiny_folder, tmp_path / "special", 9, **changes)
    with pytest.raises(UserError, match=special) as error:
        adapters.load_several(random_tiny_folder, exported[0] | {"special": tmp_path / "special"})
    assert error.value.code == "unsupported-adapter"


def test_adapters_of_another_base_and_the_bases_own_name_are_refused(exported, random_tiny_folder, tmp_path):
    folders, _ = exported
    with pytest.raises(UserError) as error:
        adapters.load_several(random_tiny_folder, folders, base_name="one")
    assert error.value.code == "unsupported-adapter"
    other = tmp_path / "other"
    model = fp32(random_tiny_folder)
    model.model.norm.weight.data += 1e-3
    loading.save(model, loading.tokenizer(random_tiny_folder), other)
    with pytest.raises(UserError) as error:
        adapters.load_several(other, folders)
    assert error.value.code == "wrong-base"

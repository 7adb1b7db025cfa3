"""The configuration's models: what is refused and in which words, the defaults, and what determines a result."""

import itertools
from pathlib import Path

import pytest
import yaml

from posttrain.config import schema
from posttrain.config.schema import Run, read, validate
from posttrain.methods import METHODS
from posttrain.objectives import OBJECTIVES, data_refusal
from posttrain.runtime.errors import UserError
from posttrain.workflow.project import Project

# change to the small configuration -> what the sentence says after the file's name
REFUSED = [
    # unknown keys, with the nearest name
    ({"rnus": {}}, "rnus: unknown key 'rnus'; did you mean 'runs'?"),
    ({"bases.base.pth": "x"}, "bases.base.pth: unknown key 'pth'; did you mean 'path'?"),
    ({"datasets.chats.colums": {}}, "datasets.chats.colums: unknown key 'colums'; did you mean 'columns'?"),
    ({"runs.sft.learning_rat": 1}, "runs.sft.learning_rat: unknown key 'learning_rat'; did you mean 'learning_rate'?"),
    ({"runs.sft.from_": "base"}, "runs.sft.from_: unknown key 'from_'; did you mean 'from'?"),
    ({"sweeps.rank.ovr": {}}, "sweeps.rank.ovr: unknown key 'ovr'; did you mean 'over'?"),
    ({"evaluation": {"limt": 3}}, "evaluation.limt: unknown key 'limt'; did you mean 'limit'?"),
    ({"tracking": {"mlfow": True}}, "tracking.mlfow: unknown key 'mlfow'; did you mean 'mlflow'?"),
    # missing keys
    ({"runs.sft.from": ...}, "runs.sft.from: this key is missing"),
    ({"runs.sft.data": ...}, "runs.sft.data: this key is missing"),
    ({"runs.sft.objective": ...}, "runs.sft.objective: this key is missing"),
    ({"bases.base.path": ...}, "bases.base.path: this key is missing"),
    ({"bases.base": {"source": "wheel"}}, "bases.base.package: this key is missing"),
    ({"sweeps.rank.run": ...}, "sweeps.rank.run: this key is missing"),
    # values outside their type
    ({"runs.sft.rank": "many"}, "runs.sft.rank: input should be a valid integer"),
    ({"runs.sft.rank": 4.5}, "runs.sft.rank: input should be a valid integer"),
    ({"runs.sft.rank": 0}, "runs.sft.rank: input should be greater than 0, but it is 0"),
    ({"runs.sft.batch_size": None}, "runs.sft.batch_size: input should be a valid integer, but it is None"),
    ({"runs.sft.learning_rate": "fast"}, "runs.sft.learning_rate: input should be a valid number"),
    (
        {"runs.sft.learning_rate": float("nan")},
        "runs.sft.learning_rate: input should be a finite number, but it is nan",
    ),
    ({"runs.sft.dropout": 1}, "runs.sft.dropout: input should be less than 1, but it is 1"),
    ({"runs.sft.warmup": 1.5}, "runs.sft.warmup: input should be less than or equal to 1, but it is 1.5"),
    ({"runs.sft.seed": -1}, "runs.sft.seed: input should be greater than or equal to 0, but it is -1"),
    ({"runs.sft.gradient_checkpointing": "maybe"}, "runs.sft.gradient_checkpointing: input should be a valid boolean"),
    ({"runs.sft.trainer_args": [1]}, "runs.sft.trainer_args: input should be a valid dictionary, but it is [1]"),
    ({"runs.sft.target_modules": 3}, "runs.sft.target_modules: input should be a valid string, but it is 3"),
    ({"runs.sft.objective": "dpoo"}, "runs.sft.objective: 'dpoo' is not allowed; did you mean 'dpo'?"),
    ({"runs.sft.method": "qlra"}, "runs.sft.method: 'qlra' is not allowed; did you mean 'qlora'?"),
    ({"runs.sft.schedule": "cosin"}, "runs.sft.schedule: 'cosin' is not allowed; did you mean 'cosine'?"),
    ({"runs.sft.data": "a/b"}, "runs.sft.data: 'a/b' does not have the form"),
    ({"use": "fun"}, "use: 'fun' is not allowed; valid are research, commercial"),
    ({"evaluation": {"limit": 0}}, "evaluation.limit: input should be greater than 0, but it is 0"),
    (
        {"tracking": {"checkpoint_seconds": -1}},
        "tracking.checkpoint_seconds: input should be greater than or equal to 0",
    ),
    ({"sweeps.rank.over": {}}, "sweeps.rank: nothing varies; write `over: {rank: [4, 8]}` or a list of `points`"),
    (
        {"sweeps.rank.points": [{"rank": 4}]},
        "sweeps.rank: rank is both in `over` and in `points`; write it in one of them",
    ),
    # suites
    (
        {"evaluation.suites": {"x": {"kind": "perplexty"}}},
        "evaluation.suites.x.kind: 'perplexty' is no kind; did you mean 'perplexity'?",
    ),
    ({"evaluation.suites": {"x": {"data": "chats"}}}, "evaluation.suites.x.kind: 'None' is no kind; valid are"),
    ({"evaluation.suites": {"x": {"kind": "reward", "data": "chats"}}}, "evaluation.suites.x.by: this key is missing"),
    (
        {"evaluation.suites": {"x": {"kind": "safety", "limt": 3}}},
        "evaluation.suites.x.limt: unknown key 'limt'; did you mean 'limit'?",
    ),
    (
        {"evaluation.suites": {"x": {"kind": "generation", "data": "chats", "metrics": ["blue"]}}},
        "evaluation.suites.x.metrics: there is no metric 'blue', and your own has the form FILE.py:NAME; did you mean 'bleu'?",
    ),
    (
        {"evaluation.suites": {"x": {"kind": "generation", "data": "chats", "metrics": ["a.py:bleu"]}}},
        "evaluation.suites.x.metrics: a.py:bleu: 'bleu' is the name of something else in the results; rename the function",
    ),
    (
        {"evaluation.suites": {"x": {"kind": "generation", "data": "chats", "metrics": ["a.py:own", "b.py:own"]}}},
        "evaluation.suites.x.metrics: a.py:own and b.py:own have one name; rename a function",
    ),
    (
        {"evaluation.suites": {"x": {"kind": "generation", "data": "chats", "metrics": ["regex"]}}},
        "evaluation.suites.x: `pattern` and the metric `regex` belong together",
    ),
    (
        {"evaluation.suites": {"x": {"kind": "generation", "data": "chats", "metrics": ["regex"], "pattern": "(a"}}},
        "evaluation.suites.x: pattern: '(a' is no regular expression: missing ), unterminated subpattern",
    ),
    ({"evaluation.suites": {"X": {"kind": "safety"}}}, "evaluation.suites.X: 'X' does not have the form"),
    ({"sweeps.rank.over": {"rank": 4}}, "sweeps.rank.over.rank: input should be a valid list, but it is 4"),
    ({"bases.base": 3}, "bases.base: input should be a valid dictionary"),
    ({"bases.base": {"source": "wheell"}}, "bases.base.source: 'wheell' is no source; did you mean 'wheel'?"),
    ({"bases.base": {"path": "base"}}, "bases.base.source: 'None' is no source; valid are hub, path, random, wheel"),
    ({"bases.base": {"source": "wheel", "package": "name"}}, "bases.base.package: 'name' does not have the form"),
    ({"bases.base": {"source": "wheel", "package": "name==1; rm -rf"}}, "does not have the form"),
    ({"bases.base": {"source": "hub", "model": "a/b/c"}}, "bases.base.model: 'a/b/c' does not have the form"),
    (
        {"bases.base": {"source": "random", "text": "chats", "heads": 3}},
        "hidden_size 64 is no multiple of 2 x heads (6)",
    ),
    (
        {"bases.base": {"source": "random", "text": "chats", "vocab_size": 256}},
        "bases.base.vocab_size: input should be",
    ),
    (
        {"datasets.chats.format": "preferences"},
        "datasets.chats.format: 'preferences' is not allowed; did you mean 'preference'?",
    ),
    ({"datasets.chats.hub": "a/b"}, "datasets.chats: a dataset has one of `path`, `hub`, `from`, `mix` and `ratings`"),
    ({"datasets.chats.path": ...}, "datasets.chats: a dataset has one of `path`, `hub`, `from`, `mix` and `ratings`"),
    ({"datasets.chats.validation": 0.95}, "datasets.chats: validation is 0.95; write a share from 0 to 0.9, or a file"),
    ({"datasets.chats.validation": -1}, "datasets.chats: validation is -1.0; write a share from 0 to 0.9, or a file"),
    ({"datasets.chats.limit": 0}, "datasets.chats.limit: input should be greater than 0, but it is 0"),
    # keys that have no effect, or contradict each other
    ({"runs.sft.beta": 0.1}, "runs.sft: beta has no effect here; it needs objective: dpo"),
    ({"runs.sft.loss_type": "ipo"}, "runs.sft: loss_type: 'ipo' is not allowed; valid are dft, nll"),
    ({"runs.full.rank": 8}, "runs.full: rank has no effect here; it needs method: lora"),
    ({"runs.full.alpha": 8}, "runs.full: alpha has no effect here; it needs method: lora"),
    ({"runs.full.dropout": 0.1}, "runs.full: dropout has no effect here; it needs method: lora"),
    ({"runs.full.target_modules": "all-linear"}, "runs.full: target_modules has no effect here; it needs method: lora"),
    ({"runs.full.peft_args": {}}, "runs.full: peft_args has no effect here; it needs method: lora"),
    ({"runs.sft.accumulation": 3}, "runs.sft: accumulation 3 does not divide batch_size 8"),
    ({"runs.sft.epochs": 1, "runs.sft.max_steps": 3}, "runs.sft: epochs and max_steps are both set; write one of them"),
    # names
    ({"runs.Sft": {}}, "runs: 'Sft' is no name; write a small letter, then small letters, digits and _"),
    ({"runs": {True: {}}}, "runs: 'True' is no name"),
    ({"bases": {"data": {}}}, "bases: the name 'data' is reserved for a folder of results/; choose another"),
    ({"runs.logs": {}}, "runs: the name 'logs' is reserved for a folder of results/; choose another"),
    ({"runs.base": {}}, "'base' names a base and a run; bases and runs share one name space, rename one"),
    ({"runs": ["sft"]}, "runs: this is a table of names; write `name: {...}` under it"),
]


@pytest.mark.parametrize(("changes", "sentence"), REFUSED, ids=[sentence for _, sentence in REFUSED])
def test_a_mistake_is_one_sentence_with_its_place(configuration, changes, sentence):
    with pytest.raises(UserError) as error:
        read(configuration(changes), "my.yaml")
    assert str(error.value).startswith("my.yaml: ")
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "values",
    [
        {"from": "base", "objective": "sft", "data": "chats"} | keys
        for keys in (
            {"beta": 0.2},
            {"accumulation": 3},
            {"method": "full", "rank": 4},
            {"epochs": 2, "max_steps": 5},
        )
    ],
)
def test_a_run_that_contradicts_itself_is_refused_where_it_is_validated_alone(values):
    with pytest.raises(UserError, match="results/sft: "):
        validate(Run, values, "results/sft")


# ---- what an objective cannot be had with

RULE = {"function": "final_number"}
RUNS_REFUSED = [
    # keys that have no effect
    (
        {"objective": "sft", "beta": 0.1},
        "beta has no effect here; it needs objective: dpo or kto or orpo or cpo or grpo or rloo",
    ),
    ({"objective": "reward", "beta": 0.1}, "beta has no effect here"),
    ({"objective": "ppo", "reward": RULE, "beta": 0.1}, "beta has no effect here"),
    (
        {"objective": "orpo", "loss_type": "sigmoid"},
        "loss_type has no effect here; it needs objective: sft or dpo or kto or cpo or grpo",
    ),
    ({"objective": "kto", "loss_weights": [1]}, "loss_weights has no effect here; it needs objective: dpo"),
    ({"objective": "dpo", "reward": RULE}, "reward has no effect here; it needs objective: grpo or rloo or ppo"),
    ({"objective": "sft", "max_new_tokens": 8}, "max_new_tokens has no effect here"),
    ({"objective": "dpo", "temperature": 1}, "temperature has no effect here"),
    (
        {"objective": "ppo", "reward": RULE, "generations": 4},
        "generations has no effect here; it needs objective: grpo or rloo",
    ),
    ({"objective": "grpo", "reward": RULE, "clip": 0.1}, "clip has no effect here; it needs objective: ppo"),
    (
        {"objective": "ppo", "reward": RULE, "trainer_args": {}},
        "trainer_args has no effect here; it needs objective: sft or dpo",
    ),
    ({"method": "oft", "rank": 4}, "rank has no effect here; it needs method: lora or qlora or adalora or vera"),
    ({"method": "vera", "alpha": 4}, "alpha has no effect here; it needs method: lora or qlora or adalora"),
    ({"method": "adalora", "lora_plus": 4}, "lora_plus has no effect here; it needs method: lora or qlora"),
    ({"method": "prompt", "target_modules": ["q_proj"]}, "target_modules has no effect here"),
    ({"method": "adapter", "peft_args": {}}, "peft_args has no effect here"),
    (
        {"method": "adapter", "virtual_tokens": 4},
        "virtual_tokens has no effect here; it needs method: prefix or p_tuning or prompt",
    ),
    ({"method": "prefix", "reduction_factor": 4}, "reduction_factor has no effect here; it needs method: adapter"),
    ({"method": "lora", "placement": "houlsby"}, "placement has no effect here; it needs method: adapter"),
    ({"method": "lora", "merge_into": "original"}, "merge_into has no effect here; it needs method: qlora"),
    # losses
    ({"loss_type": "sigmoid"}, "loss_type: 'sigmoid' is not allowed; valid are dft, nll"),
    ({"objective": "dpo", "loss_type": "dft"}, "loss_type: 'dft' is not allowed"),
    (
        {"objective": "dpo", "loss_type": ["sigmoid", "sigmoyd"]},
        "loss_type: 'sigmoyd' is not allowed; did you mean 'sigmoid'?",
    ),
    ({"objective": "dpo", "loss_type": []}, "loss_type: only dpo takes several, as a list of names"),
    ({"objective": "dpo", "loss_type": ""}, "loss_type: '' is not allowed"),
    ({"objective": "kto", "loss_type": ["kto"]}, "loss_type: only dpo takes several, as a list of names"),
    (
        {"objective": "kto", "loss_type": "sigmoid"},
        "loss_type: 'sigmoid' is not allowed; valid are apo_zero_unpaired, kto",
    ),
    (
        {"objective": "grpo", "reward": RULE, "loss_type": "gropo"},
        "loss_type: 'gropo' is not allowed; did you mean 'grpo'?",
    ),
    (
        {"objective": "dpo", "loss_type": ["sigmoid", "sft"], "loss_weights": [1]},
        "loss_weights has 1 numbers for 2 loss types; write one for each",
    ),
    ({"objective": "dpo", "loss_weights": [1]}, "loss_weights has 1 numbers for 0 loss types"),
    ({"objective": "dpo", "beta": 0}, "beta is 0; write a number above 0"),
    ({"method": "adalora", "peft_args": {"orth_reg_weight": 0.1}}, "peft_args.orth_reg_weight has no effect"),
    ({"objective": "dpo", "trainer_args": {"ld_alpha": 0.5}}, "trainer_args.ld_alpha weighs an answer's tokens"),
    ({"objective": "kto", "beta": 0}, "beta is 0; write a number above 0"),
    ({"objective": "orpo", "beta": 0}, "beta is 0; write a number above 0"),
    # rewards
    ({"objective": "ppo"}, "reward is missing; ppo needs `reward: {from: RUN}` or `reward: {function: NAME}`"),
    ({"objective": "grpo"}, "reward is missing; grpo needs"),
    ({"objective": "rloo"}, "reward is missing; rloo needs"),
    (
        {"objective": "grpo", "reward": {"from": "dpo", "kind": "implicit"}},
        "reward.kind: implicit rewards tokens, which grpo cannot use; it needs objective: ppo",
    ),
    ({"objective": "ppo", "reward": {}}, "reward: a reward has either `from` or `function`"),
    ({"objective": "ppo", "reward": {"from": "reward"} | RULE}, "reward: a reward has either `from` or `function`"),
    (
        {"objective": "ppo", "reward": {"function": "final_numbr"}},
        "there is no function 'final_numbr'; did you mean 'final_number'?",
    ),
    ({"objective": "ppo", "reward": {"function": "rules.txt:mine"}}, "there is no function 'rules.txt:mine'"),
    ({"objective": "ppo", "reward": {"function": "rules.py"}}, "there is no function 'rules.py'"),
    ({"objective": "ppo", "reward": {"function": "rules.py:a-b"}}, "there is no function 'rules.py:a-b'"),
    ({"objective": "ppo", "reward": RULE | {"kind": "score"}}, "reward: kind has no effect here; it needs from"),
    (
        {"objective": "ppo", "reward": RULE | {"sequence": "reward"}},
        "reward: sequence has no effect here; it needs from",
    ),
    (
        {"objective": "ppo", "reward": {"from": "reward", "sequence": "reward"}},
        "reward: sequence has no effect here; it needs kind: implicit",
    ),
    ({"objective": "ppo", "reward": {"form": "reward"}}, "reward.form: unknown key 'form'"),
    # batches
    ({"objective": "grpo", "reward": RULE, "batch_size": 6}, "generations 4 does not divide batch_size 6"),
    (
        {"objective": "rloo", "reward": RULE, "generations": 1},
        "generations: input should be greater than 1, but it is 1",
    ),
    (
        {"objective": "ppo", "reward": RULE, "minibatches": 3},
        "minibatches 3 x accumulation 1 does not divide batch_size 8",
    ),
    (
        {"objective": "ppo", "reward": RULE, "minibatches": 4, "accumulation": 4},
        "minibatches 4 x accumulation 4 does not divide batch_size 8",
    ),
    (
        {"objective": "kto", "accumulation": 8},
        "kto estimates a KL divergence over the batch; batch_size / accumulation must be 2 or more",
    ),
    ({"objective": "kto", "batch_size": 1}, "batch_size / accumulation must be 2 or more"),
    # methods
    (
        {"objective": "ppo", "reward": RULE, "method": "adalora"},
        "ppo trains two adapters on one model, and AdaLoRA can have only one; write method: lora",
    ),
    (
        {"objective": "ppo", "reward": RULE, "dropout": 0.1},
        "dropout: ppo compares a policy with itself, which dropout would blur; take it out",
    ),
    ({"objective": "reward", "method": "prompt"}, "prompt hands the model embeddings instead of tokens"),
    ({"objective": "reward", "method": "p_tuning"}, "p_tuning hands the model embeddings instead of tokens"),
    (
        {"objective": "orpo", "method": "prompt"},
        "prompt puts virtual tokens before the prompt, which TRL's ORPO does not leave out of the loss",
    ),
    ({"objective": "orpo", "method": "p_tuning"}, "p_tuning puts virtual tokens before the prompt"),
    (
        {"method": "prefix", "gradient_checkpointing": True},
        "gradient_checkpointing drops the cache that prefix tuning is made of; take it out",
    ),
    (
        {"method": "prefix", "peft_args": {"prefix_projection": True}},
        "peft_args.prefix_projection: PEFT keeps only what the projection gives",
    ),
    (
        {"method": "prompt", "packing": True},
        "packing has no effect here; it needs method: full or lora or qlora or adalora or adapter or ia3 or oft or vera",
    ),
    (
        {"method": "qlora", "peft_args": {"init_lora_weights": "pissa"}},
        "pissa moves a part of the parent's weights into the adapter, and the 4-bit weights cannot be changed",
    ),
    (
        {"method": "qlora", "peft_args": {"init_lora_weights": "olora"}},
        "olora moves a part of the parent's weights into the adapter, and the 4-bit",
    ),
    ({"objective": "kto", "peft_args": {"init_lora_weights": "pissa"}}, "and the parent is needed as the reference"),
    (
        {"objective": "ppo", "reward": RULE, "peft_args": {"init_lora_weights": "olora"}},
        "and the parent is needed as the reference",
    ),
    (
        {"peft_args": {"init_lora_weights": "pissa_niter_4"}},
        "a fast PiSSA draws at random, so that what is loaded again is not what was trained; write pissa",
    ),
    (
        {"peft_args": {"init_lora_weights": "corda"}},
        "corda needs a preparation that is not done here; write eva, or pissa",
    ),
    ({"peft_args": {"init_lora_weights": "lora_ga"}}, "lora_ga needs a preparation that is not done here"),
    ({"peft_args": {"init_lora_weights": "loftq"}}, "loftq makes up for what 4 bits lose; it needs method: qlora"),
]
RUNS_REFUSED_IDS = [f"{values}: {sentence}" for values, sentence in RUNS_REFUSED]


@pytest.mark.parametrize(("values", "sentence"), RUNS_REFUSED, ids=RUNS_REFUSED_IDS)
def test_what_cannot_be_trained_is_one_sentence(values, sentence):
    with pytest.raises(UserError) as error:
        run(**values)
    assert sentence in str(error.value)
    assert str(error.value).startswith("run: ")
    assert "\n" not in str(error.value)


def test_a_check_that_does_not_exist_cannot_be_allowed():
    assert run(allow=["overlap"]).allow == ["overlap"]
    assert run(allow=["overlap"]).settings() == run().settings()
    with pytest.raises(UserError, match=r"allow: there is no check 'overlaps'; did you mean 'overlap'\?"):
        run(allow=["overlaps"])


ALLOWED = [
    {"objective": "dpo", "loss_type": ["sigmoid", "sft"], "loss_weights": ["1e-1", 1]},
    {"objective": "grpo", "reward": RULE, "beta": 0},
    {"objective": "ppo", "reward": RULE, "dropout": 0, "minibatches": 2, "accumulation": 4, "kl_target": 6},
    {"objective": "ppo", "reward": {"function": "rules/mine.py:short_answers"}},
    {"objective": "ppo", "reward": {"from": "dpo", "kind": "implicit", "sequence": "reward"}},
    {"objective": "dpo", "peft_args": {"init_lora_weights": "pissa"}},  # its reference is computed before
    {"objective": "reward", "method": "prefix"},
    {"method": "qlora", "merge_into": "original", "lora_plus": 16},
    {"method": "vera", "rank": 1024},
    {"method": "prefix", "peft_args": {"prefix_projection": False}},
    {"peft_args": {"init_lora_weights": False}},
]


@pytest.mark.parametrize("values", ALLOWED, ids=str)
def test_what_only_looks_like_it_can_be_trained(values):
    assert run(**values)


SHAPES = ("text", "messages", "preference", "unpaired_preference", "image_messages")
FITS = {
    "sft": "text messages",
    "dpo": "preference",
    "kto": "preference unpaired_preference",
    "orpo": "preference",
    "cpo": "preference",
    "reward": "preference",
    "grpo": "messages preference prompts",
    "rloo": "messages preference prompts",
    "ppo": "messages preference prompts",
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("objective", FITS)
def test_rows_of_another_shape_are_refused_with_the_objectives_that_they_fit(objective, shape):
    refusal = data_refusal(objective, "rows", shape)
    assert (refusal is None) == (shape in FITS[objective].split())
    if refusal:
        assert refusal.startswith(
            f"{objective} needs rows of type {FITS[objective].replace(' ', ' or ')}, and rows is {shape}"
        )
        fits = [name for name, shapes in FITS.items() if shape in shapes.split()]
        assert refusal.endswith(f"which fits {' or '.join(fits)}" if fits else "which no objective can use yet")


def test_a_boolean_is_no_number(configuration):
    with pytest.raises(UserError, match=r"runs\.sft\.rank: "):
        read(configuration({"runs.sft.rank": True}), "my.yaml")


def test_a_number_is_finite(configuration):
    with pytest.raises(UserError, match=r"runs\.sft\.learning_rate: "):
        read(configuration({"runs.sft.learning_rate": float("inf")}), "my.yaml")


def test_a_loss_that_trl_does_not_have_is_refused(configuration):
    with pytest.raises(UserError, match=r"runs\.dpo: loss_type: 'sigmoidd' is not allowed; did you mean 'sigmoid'"):
        read(configuration({"runs.dpo.loss_type": "sigmoidd"}), "my.yaml")


def test_a_package_is_no_option_of_pip(configuration):
    with pytest.raises(UserError, match=r"bases\.base\.package: "):
        read(configuration({"bases.base": {"source": "wheel", "package": "--pre==1"}}), "my.yaml")


def test_a_column_that_no_shape_has_is_refused(configuration):
    with pytest.raises(UserError, match="did you mean 'prompt'"):
        read(configuration({"datasets.chats.columns": {"promt": "question"}}), "my.yaml")


def test_the_small_configuration_is_valid_and_an_empty_one_too(configuration):
    assert list(read(configuration(), "my.yaml").runs) == ["sft", "dpo", "follow", "full"]
    assert read({}, "my.yaml").runs == {}
    assert read({"runs": None, "evaluation": None}, "my.yaml").evaluation.limit == 100


@pytest.mark.parametrize("written", ["1e-4", "0.0001", "1.0e-4"])
def test_every_way_to_write_a_number_in_yaml_gives_that_number(configuration, written):
    values = configuration({"runs.sft.learning_rate": yaml.safe_load(written)})
    assert read(values, "my.yaml").runs["sft"].learning_rate == 0.0001


def test_a_validation_share_may_be_written_as_yaml_text_and_a_file_stays_a_file(configuration):
    assert read(configuration({"datasets.chats.validation": "2e-1"}), "my.yaml").datasets["chats"].validation == 0.2
    assert read(configuration(), "my.yaml").datasets["pairs"].validation == "held_out.jsonl"


DEFAULTS = {
    ("sft", "lora"): {"learning_rate": 2e-4, "alpha": 32.0, "dropout": 0.05},
    ("sft", "full"): {"learning_rate": 2e-5},
    ("dpo", "lora"): {"learning_rate": 5e-5, "alpha": 32.0, "dropout": 0.0, "beta": 0.1},
    ("dpo", "full"): {"learning_rate": 1e-6, "beta": 0.1},
}


TABLE = {"from": "base", "objective": "sft", "data": "chats"}


def run(**keys) -> Run:
    return validate(Run, TABLE | keys, "run")


@pytest.mark.parametrize(("objective", "method"), DEFAULTS)
def test_the_defaults_that_depend_on_objective_and_method(objective, method):
    settings = run(objective=objective, method=method).settings()
    assert settings | DEFAULTS[objective, method] == settings


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_and_method_has_its_defaults(objective):
    rewarded = {"reward": RULE} if OBJECTIVES[objective].on_policy else {}
    for method in METHODS:
        try:
            settings = run(objective=objective, method=method, **rewarded).settings()
        except UserError:
            continue  # refused, as its row above says
        learns, moves = METHODS[method].learning_rates
        assert settings["learning_rate"] == (learns if objective in ("sft", "reward") else moves)
        beta = {"dpo": 0.1, "kto": 0.1, "orpo": 0.1, "cpo": 0.1, "grpo": 0.0, "rloo": 0.05}
        assert settings.get("beta") == beta.get(objective)
        assert settings.get("rank", 16) == (256 if method == "vera" else 16)
        loss_types = {"sft": "nll", "dpo": "sigmoid", "kto": "kto", "cpo": "sigmoid", "grpo": "dapo"}
        assert settings.get("loss_type") == loss_types.get(objective)
        assert settings.get("dropout", 0) == (0.05 if objective == "sft" and "dropout" in settings else 0)
        assert settings.get("target_modules", "all-linear") == (None if method == "ia3" else "all-linear")


def test_every_key_of_the_tables_is_a_runs():
    for table in (METHODS, OBJECTIVES):
        assert {key for row in table.values() for key in row.keys} <= set(Run.model_fields)
    for row in OBJECTIVES.values():
        assert bool(row.loss_types) == ("loss_type" in row.keys)
        assert bool(row.trl_config) == ("trainer_args" in row.keys)
    for row in METHODS.values():
        assert bool(row.peft_config) == ("peft_args" in row.keys)


@pytest.mark.parametrize("method", [name for name in METHODS if name != "adapter" and name != "full"])
def test_what_a_runs_own_keys_say_of_pefts_configuration_cannot_be_said_twice(configuration, method):
    own = schema.OWN_PEFT_FIELDS & schema.peft_fields(method)
    assert {"task_type", "peft_type"} <= own
    for field in own:
        with pytest.raises(UserError, match=rf"runs\.own\.peft_args: '{field}' is not set here; "):
            Project(configuration({"runs.own": TABLE | {"method": method, "peft_args": {field: 1}}}))


@pytest.mark.parametrize("objective", [name for name, row in OBJECTIVES.items() if row.trl_config])
def test_what_a_runs_own_keys_say_to_the_trainer_cannot_be_said_twice(configuration, objective):
    rewarded = {"reward": RULE} if OBJECTIVES[objective].on_policy else {}
    data = "chats" if objective in ("sft", "grpo", "rloo") else "pairs"
    table = TABLE | {"objective": objective, "data": data} | rewarded
    own = (schema.OWN_FIELDS & schema.trainer_fields(objective)) - {"loss_type"}
    for field in own:
        with pytest.raises(UserError, match=f"trainer_args: '{field}' is not set here; "):
            Project(configuration({"runs.own": table | {"trainer_args": {field: 1}}}))
    with pytest.raises(
        UserError, match="trainer_args: the trainer has no field 'padding_fred'; did you mean 'padding_free'"
    ):
        Project(configuration({"runs.own": TABLE | {"trainer_args": {"padding_fred": 1}}}))


def test_alpha_follows_the_rank_until_it_is_set():
    assert run(rank=4).settings()["alpha"] == 8
    assert run(rank=4, alpha=64).settings()["alpha"] == 64


@pytest.mark.parametrize(("objective", "method"), DEFAULTS)
def test_settings_hold_no_key_that_has_no_effect(objective, method):
    settings = run(objective=objective, method=method).settings()
    later = {"reward", *schema.SINCE}  # which are left out at their default
    for table, own in ((METHODS, method), (OBJECTIVES, objective)):
        keys = {key for row in table.values() for key in row.keys} - later
        assert {key for key in keys if key in settings} == keys & set(table[own].keys)
    assert not {"from", "from_", "data", "reward"} & settings.keys()


def test_a_set_value_is_kept_where_a_default_would_differ():
    settings = run(learning_rate="3e-4", dropout=0.2, objective="dpo").settings()
    assert (settings["learning_rate"], settings["dropout"]) == (3e-4, 0.2)


def test_every_key_is_described():
    tables = [schema.Config, *schema.BASES.values(), *schema.TABLES.values()]
    for table, (name, field) in itertools.chain.from_iterable(
        ((table, item) for item in table.model_fields.items()) for table in tables
    ):
        assert name == "source" or field.description, f"{table.__name__}.{name}"


def test_every_table_of_the_file_is_in_the_tables_that_errors_and_the_page_use():
    assert set(schema.Config.model_fields) == {"bases", "ratings", "use", *schema.TABLES}


def test_the_fields_that_run_keys_set_exist_in_the_installed_trl():
    trained = [name for name, row in OBJECTIVES.items() if row.trl_config]
    assert frozenset().union(*map(schema.trainer_fields, trained)) >= schema.OWN_FIELDS
    assert {"packing", "learning_rate"} <= schema.trainer_fields("sft")
    assert {"beta", "label_smoothing"} <= schema.trainer_fields("dpo")
    assert "beta" not in schema.trainer_fields("sft")


def test_the_fields_of_a_method_are_read_from_the_installed_peft():
    assert {"r", "use_rslora", "modules_to_save"} <= schema.peft_fields("lora")
    assert {"target_r", "tinit", "use_rslora", "modules_to_save"} <= schema.peft_fields("adalora")
    assert "use_rslora" not in schema.peft_fields("ia3")


@pytest.mark.parametrize("file", ["config/config.yaml", "config/test/tiny.yaml"])
def test_the_shipped_configurations_are_valid(file):
    repository = Path(__file__).resolve().parents[3]
    assert read(yaml.safe_load((repository / file).read_text()), file).runs


def test_a_target_behind_configfile_is_no_configuration(in_folder):
    with pytest.raises(
        UserError, match=r"'results/sft/eval\.json' stands behind --configfile, so snakemake reads it as a second"
    ):
        schema.check_is_no_target(Path("results/sft/eval.json"))
    schema.check_is_no_target(Path("config/results.yaml"))
    schema.check_is_no_target(Path("../other/results/x.yaml"))

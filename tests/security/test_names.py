"""Hostile names, values, paths and licences: refused in a sentence, or text in a spec and on a card."""

import json
import re

import pytest
import yaml

from posttrain.reports import model_card
from posttrain.runtime.errors import LONGEST, UserError, printable
from posttrain.workflow.project import Project
from security.hostile import STRINGS

# Where a configuration takes free text, or looks as if it did.
PLACES = [
    "bases.base.path", "bases.base.licence", "datasets.chats.path", "datasets.chats.licence", "datasets.chats.columns",
    "datasets.chats.image_folder", "datasets.chats.subset", "datasets.chats.ratings", "runs.sft.from", "runs.sft.data",
    "runs.sft.target_modules", "runs.sft.seed", "runs.sft.reward", "runs.sft.peft_args", "runs.sft.trainer_args", "runs.sft.allow",
    "tracking", "evaluation.data", "evaluation.suites", "ratings", "cost", "use",
]  # fmt: skip
ALL = ("datasets.chats.path", "datasets.chats.columns")  # the whole corpus; the others share it
TABLES = {
    "datasets.chats.columns": lambda text: {"messages": text},
    "runs.sft.reward": lambda text: {"function": text},
    "runs.sft.peft_args": lambda text: {"modules_to_save": [text]},
    "runs.sft.trainer_args": lambda text: {"optim": text},
    "runs.sft.allow": lambda text: [text],
    "tracking": lambda text: {"experiment": text},
    "evaluation.data": lambda text: [text],
    "evaluation.suites": lambda text: {
        "x": {"kind": "generation", "data": "chats", "metrics": ["regex"], "pattern": text}
    },
    "ratings": lambda text: [text],
    "cost": lambda text: {"currency": text},
}


def told(error: UserError) -> None:
    said = str(error)
    assert printable(said) == said and len(said) <= LONGEST + 5


@pytest.mark.parametrize("place", PLACES)
def test_a_hostile_value_is_refused_or_is_text_in_the_spec(configuration, in_folder, place):
    for text in STRINGS if place in ALL else STRINGS[PLACES.index(place) :: 7]:
        value = TABLES.get(place, lambda text: text)(text)
        try:
            project = Project(configuration({place: value}))
            project.check_targets(["results/sft/spec.json"])
        except UserError as error:
            told(error)
        else:
            for target in ("sft", "bases/base", "data/chats", "sft/eval"):
                assert json.loads(project.spec(target))["version"]


def test_a_hostile_name_is_refused(configuration):
    for table in ("bases", "datasets", "runs", "sweeps"):
        for text in STRINGS:
            values = configuration({})
            values[table] = values.get(table, {}) | {text: next(iter(values.get(table, {}).values()), {})}
            try:
                Project(values)
            except UserError as error:
                told(error)
            else:
                assert re.fullmatch("[a-z][a-z0-9_]*", text)


def test_a_hostile_override_is_refused_or_has_a_plain_name(configuration, in_folder):
    project = Project(configuration({}))
    for text in STRINGS:
        for target in (
            f"sft,seed={text}",
            f"sft,{text}=1",
            f"sft,{text}",
            text,
            f"sft/{text}",
            f"sft,target_modules={text}",
        ):
            try:
                project.check_targets([f"results/{target}/spec.json"])
                name = project.run(target).name
            except UserError as error:
                told(error)
            else:
                assert re.fullmatch(r"sft(,[a-z_]+=[A-Za-z0-9_.+-]+)*", name), target


def test_a_model_card_says_hostile_settings_as_text(in_folder):
    """Its front matter has the licence and no other key, its table one line a setting, and no HTML is made."""
    names = {"from": {"name": "base", "spec": ""}, "data": {"name": "chats", "spec": ""}}
    for text in STRINGS:
        spec = names | {
            "objective": "sft",
            "method": "lora",
            "target_modules": [text],
            "trainer_args": {},
            "loss_type": text,
        }
        card = model_card.card("sft", spec, {"bases.base": text or None, "datasets.chats": "mit"})
        _, front, body = card.split("---\n", 2)
        known = {"license", "license_name", "library_name", "pipeline_tag", "tags"}
        assert set(yaml.safe_load(front)) <= known
        lines = re.findall(r"^\| `(?:target_modules|loss_type)` \| (.*) \|$", body, re.MULTILINE)
        assert len(lines) == 2, text
        for line in body.splitlines():
            outside = re.sub(r"`[^`]*`", "", line)
            assert not re.search(r"<[a-zA-Z/!]|javascript:|!\[", outside), line
            assert line.count("|") - line.count("\\|") <= 4 and len(line) < 1000

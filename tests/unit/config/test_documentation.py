"""The generated files agree with the configuration's models."""

import json
import shutil

import pytest
from conftest import refused

from posttrain.config import documentation
from posttrain.config.bases import BASES
from posttrain.config.project_file import TABLES, Config


def test_generated_files_are_up_to_date():
    for file, text in documentation.generated().items():
        assert file.read_text() == text, f"{file} has drifted; run: posttrain schema"


@pytest.fixture
def config(tmp_path, monkeypatch):
    """An up-to-date copy of config/."""
    monkeypatch.setattr(documentation, "FOLDER", shutil.copytree(documentation.FOLDER, tmp_path / "config"))
    documentation.write(check=False)
    return tmp_path / "config"


@pytest.mark.parametrize("name", ["schema.json", "README.md"])
def test_file_that_drifts_is_named_and_mended(config, capsys, name):
    right = (config / name).read_text()
    (config / name).write_text(right.replace("peak learning rate", "the learning rate"))
    with refused("outdated-file", f"config/{name}"):
        documentation.write(check=True)
    assert "peak learning rate" in capsys.readouterr().out
    documentation.write(check=False)
    assert (config / name).read_text() == right
    documentation.write(check=True)


def test_text_written_by_hand_stays(config):
    page = config / "README.md"
    page.write_text("by hand, before\n" + page.read_text() + "by hand, after\n")
    documentation.write(check=False)
    assert page.read_text().startswith("by hand, before\n")
    assert page.read_text().endswith("by hand, after\n")


def schema() -> dict:
    return json.loads(documentation.generated()[documentation.FOLDER / "schema.json"])


def test_schema_refuses_unknown_keys():
    assert schema()["additionalProperties"] is False
    run = schema()["$defs"]["Run"]
    assert run["additionalProperties"] is False
    assert {"from", "objective", "data"} == set(run["required"])
    assert "from_" not in run["properties"]


def test_editor_accepts_a_number_as_the_default_configuration_writes_it():
    field = schema()["$defs"]["Run"]["properties"]["learning_rate"]
    assert {"type": "string"} in field["anyOf"][0]["anyOf"]


def test_every_key_is_described():
    for table in [Config, *BASES.values(), *TABLES.values()]:
        for name, field in table.model_fields.items():
            assert name == "source" or field.description, f"{table.__name__}.{name}"


def test_every_key_of_a_run_is_in_one_table_of_the_page():
    page = documentation._runs()
    for name, field in TABLES["runs"].model_fields.items():
        assert page.count(f"\n| `{field.alias or name}` |") == 1, name


def test_every_table_of_the_file_is_in_the_tables_that_errors_and_the_page_use():
    assert set(Config.model_fields) == {"bases", "ratings", "use", *TABLES}

"""The `posttrain` command: models side by side, and the generated files that must say what the models say."""

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import refused

from evaluate_model import write_examples
from posttrain.cli import main, table
from posttrain.cli.parser import COMMANDS, parser
from posttrain.runtime.atomic import write_json
from posttrain.workflow.paths import LAST_CONFIGURATION

SCRIPTS = Path(main.__file__).resolve().parents[2]


def metric(value: float, low: float, high: float) -> dict:
    return {"value": value, "low": low, "high": high, "n": 48}


def write(name: str, metrics: dict, against: dict, output: str | None) -> None:
    write_json(Path(f"results/{name}/eval.json"), {"run": name, "spec": "0", "metrics": metrics, "against": against})
    pair = {"suite": "", "dataset": "pairs", "id": "a", "chosen_log_prob": -1.0, "rejected_log_prob": -2.0}
    row = {
        "suite": "",
        "dataset": "sums",
        "id": "b",
        "prompt": "What is 1 + 1?",
        "reference": "It is two.\n#### 2",
        "output": output,
    }
    write_examples(Path(f"results/{name}/eval/examples.parquet"), [pair, row])


def unclear(detectable: float | None) -> dict:
    return {"difference": 0.0, "low": 0, "high": 0, "p": 1, "verdict": "no evidence", "detectable": detectable}


@pytest.fixture
def evaluated(in_folder, monkeypatch):
    """A base and a run that are evaluated."""
    monkeypatch.setenv("COLUMNS", "80")
    write("tiny", {"perplexity": metric(14.126, 12.0, 17.5), "exact_match": metric(0.25, 0.125, 0.4)}, {}, "3")
    against = {
        "perplexity": {"difference": -4.0, "low": -5.0, "high": -3.0, "p": 0.001, "verdict": "better"},
        "exact_match": unclear(0.25),
    }
    metrics = {"perplexity": metric(10.0, 9.0, 11.0), "exact_match": metric(0.25, 0.1, 0.4)}
    write(
        "sft",
        metrics | {"preference_margin_accuracy": metric(1.0, 0.9, 1.0)},
        {"tiny": against},
        "It is two, I think.\n#### 2",
    )


TABLE = """\
                            tiny                  sft
---------------------------------------------------------------------
perplexity                  14.13 [12.00, 17.50]  10.00 [9.00, 11.00]
exact_match                 25% [12%, 40%]        25% [10%, 40%]
preference_margin_accuracy  -                     100% [90%, 100%]

Measured on 48 examples.

sft against tiny: better: perplexity; no evidence of a difference: exact_match
  (48 examples could have shown 25 points)

question   What is 1 + 1?
reference  It is two.
           #### 2
tiny       3
sft        It is two, I think.
           #### 2
"""


def test_a_base_and_a_run_stand_side_by_side_with_verdicts_and_one_question(evaluated):
    assert table.table(["tiny", "sft"]).strip() == TABLE.strip()


def test_the_header_stands_over_its_columns(evaluated):
    header, _, row, *_ = table.table(["tiny", "sft"]).splitlines()
    assert header.index("tiny") == row.index("14.13")


def test_models_are_the_rows_where_they_are_more_than_the_metrics(evaluated):
    names = ["tiny", "sft", "sft", "sft"]
    assert [line.split()[0] for line in table.table(names).splitlines()[2:6]] == names


def test_no_evidence_says_what_could_have_been_shown_and_n_where_it_changes(evaluated):
    few = {"value": 0.5, "low": 0.0, "high": 1.0, "n": 4}
    metrics = {"perplexity": metric(10, 9, 11), "preference_accuracy": metric(0.5, 0, 1)}
    metrics |= {"exact_match": metric(0, 0, 0) | {"n": 90, "clusters": 12}, "format_followed": few}
    against = {"perplexity": unclear(0.0137), "preference_accuracy": unclear(0.366)}
    write("dpo", metrics, {"sft": against | {"exact_match": unclear(0.7), "format_followed": unclear(None)}}, None)
    said = table.table(["dpo"]).split("\n\n")[2].split()
    assert " ".join(said) == (
        "dpo against sft: no evidence of a difference: perplexity (48 examples could have shown 0.014), "
        "preference_accuracy (37 points), exact_match (90 examples of 12 prompts could have shown 70 points); too few examples to "
        "compare: format_followed (4 examples)"
    )


def test_a_metric_that_is_the_same_in_every_example_could_not_have_shown_a_difference_of_nothing(evaluated):
    write("dpo", {"x/rougeL": metric(0, 0, 0)}, {"sft": {"x/rougeL": unclear(0.0)}}, None)
    assert "x/rougeL (the same in every example)" in " ".join(table.table(["dpo"]).split())


@pytest.mark.parametrize(("severity", "result", "check", "touches"), [
    ("error", "allowed", "overlap", True), ("warning", "allowed", "overlap", False), ("error", "allowed", "licence", False),
    ("warning", "warning", "overlap", False),
])  # fmt: skip
def test_a_check_that_was_overruled_stands_beside_the_verdicts_of_the_run_and_of_its_children(
    evaluated, severity, result, check, touches
):
    found = {"name": check, "severity": severity, "result": result, "message": "50 % of the held-out rows"}
    write_json(Path("results/sft/preflight.json"), {"checks": [found]})
    write_json(Path("results/sft/spec.json"), {"from": {"name": "tiny"}})
    write_json(Path("results/dpo/spec.json"), {"from": {"name": "sft"}})
    write("dpo", {"perplexity": metric(9, 8, 10)}, {"tiny": {"perplexity": unclear(0.1)}}, None)
    text = " ".join(table.table(["tiny", "sft", "dpo"]).split())
    beside = " (overruled: overlap)" if touches else ""
    assert f"sft against tiny{beside}: better: perplexity" in text
    assert f"dpo against tiny{beside}: no evidence" in text


def test_many_metrics_without_evidence_are_counted(evaluated):
    names = [f"suite/metric_{i}" for i in range(7)]
    write("dpo", {name: metric(1, 0, 2) for name in names}, {"sft": {name: unclear(0.1) for name in names}}, None)
    assert table.table(["dpo"]).split("\n\n")[2].strip() == (
        "dpo against sft: no evidence of a difference: the other 7 metrics"
    )


def test_a_base_alone_has_no_verdict(evaluated):
    text = table.table(["tiny"])
    assert "against" not in text
    assert "perplexity   14.13 [12.00, 17.50]\n" in text


def test_one_blank_line_stands_between_the_parts(evaluated):
    assert "\n\n\n" not in table.table(["tiny"])


def test_where_nothing_was_generated_there_is_no_question(evaluated):
    write("sft", {"perplexity": metric(10.0, 9.0, 11.0)}, {}, None)
    assert "question" not in table.table(["tiny", "sft"])
    assert table.table(["sft"]).endswith("\nsft  10.00 [9.00, 11.00]\n\nMeasured on 48 examples.\n")


def test_the_number_of_examples_and_prompts_is_said_by_metric_where_it_differs(evaluated):
    write("dpo", {"perplexity": metric(9, 8, 10), "say/chrf": metric(9, 8, 10) | {"n": 99, "clusters": 33}}, {}, None)
    said = " ".join(table.table(["dpo"]).split())
    assert "Measured on 48 examples: perplexity; 99 examples of 33 prompts: say/chrf." in said


def test_a_long_answer_is_wrapped_beside_its_name(evaluated):
    write("sft", {"perplexity": metric(10.0, 9.0, 11.0)}, {}, "word " * 40)
    lines = table.table(["sft"]).splitlines()
    answer = lines[lines.index("           #### 2") + 1 :]
    assert len(answer) == 3
    assert all(len(line) <= 80 for line in answer)
    assert answer[0].startswith("sft        word")
    assert answer[1].startswith("           word")


def test_a_name_longer_than_the_terminal_is_no_traceback(evaluated, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    name = "sft,batch_size=16,learning_rate=0.0003,rank=4"
    write(name, {"perplexity": metric(10.0, 9.0, 11.0)}, {}, "2")
    assert name in table.table([name])


def test_an_unevaluated_name_is_one_sentence_with_the_command_that_evaluates_it(evaluated):
    with refused("not-built", "dpo"):
        table.table(["tiny", "dpo"])


def command(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "posttrain.cli", *arguments],
        env=os.environ | {"PYTHONPATH": str(SCRIPTS)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_command_prints_the_table(evaluated):
    done = command("table", "tiny", "sft")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == TABLE.strip()


def test_a_closed_pipe_is_quiet(evaluated):
    """As of `posttrain table ... | head`; the signal itself stays ignored, so a client that leaves ends no server."""
    arguments = [sys.executable, "-m", "posttrain.cli", "table", "tiny", "sft"]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        arguments, env=os.environ | {"PYTHONPATH": str(SCRIPTS)}, stdout=writing, stderr=subprocess.PIPE
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


def test_the_table_for_programs_is_the_models_metrics(evaluated):
    found = json.loads(command("table", "tiny", "sft", "--json").stdout)
    assert found["sft"]["against"]["tiny"]["perplexity"]["verdict"] == "better"
    assert found["tiny"]["metrics"]["exact_match"] == metric(0.25, 0.125, 0.4)


def test_a_mistake_at_the_command_is_one_line_and_exit_status_1(project_file):
    done = command("table", "dpo")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "posttrain: dpo: it is not evaluated yet; run: snakemake --cores 1 results/dpo/eval.json\n"


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["nope"], "config/config.yaml: there is no base or run 'nope'; valid are base, dpo, follow, full, sft"),
        (["dop"], "there is no base or run 'dop'; did you mean 'dpo'?"),
        (["sft", "dpo,rnak=3"], "results/dpo,rnak=3: a run has no key 'rnak'; did you mean 'rank'?"),
        (["dpo,seed=42"], "dpo,seed=42: it is not evaluated yet; run: snakemake --cores 1 results/dpo/eval.json"),
    ],
)
def test_a_name_without_results_is_looked_up_in_the_configuration(evaluated, project_file, monkeypatch, names, said):
    monkeypatch.setattr(sys, "argv", ["posttrain", "table", *names])
    with pytest.raises(SystemExit) as end:
        main.main()
    assert said in str(end.value)


def test_another_name_of_a_model_shows_its_results(evaluated, project_file, monkeypatch, capsys):
    assert run(monkeypatch, "table", "results/sft,seed=42/eval.json") == 0
    assert "10.00 [9.00, 11.00]" in capsys.readouterr().out


# ---- the subcommands that read the configuration


@pytest.fixture
def project_file(in_folder, configuration) -> Path:
    """A configuration with nothing built, in the place where Snakemake finds it."""
    file = Path("config/config.yaml")
    file.parent.mkdir()
    file.write_text(yaml.safe_dump(configuration()))
    return file


def run(monkeypatch, *arguments: str) -> int:
    """The exit status of the command."""
    monkeypatch.setattr(sys, "argv", ["posttrain", *arguments])
    try:
        main.main()
    except SystemExit as end:
        return 1 if isinstance(end.code, str) else end.code or 0
    return 0


def test_verify_reads_the_folders_own_configuration_and_says_a_line_a_result(project_file, monkeypatch, capsys):
    assert run(monkeypatch, "verify", "sft") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"{name}: not built" for name in ("data/chats", "bases/base", "tokens/base/chats,max_length=1024", "sft")
    ]


def test_verify_exits_1_where_something_was_edited(project_file, monkeypatch, capsys):
    write_json(Path("results/bases/base/base.json"), {"files": {}, "seal": "0"})
    assert run(monkeypatch, "verify", "bases/base") == 1
    assert capsys.readouterr().out == (
        "bases/base: base.json is edited\n"
        "    to build it again: snakemake --cores 1 --force results/bases/base/base.json\n"
    )


def test_verify_for_programs(project_file, monkeypatch, capsys):
    write_json(Path("results/bases/base/base.json"), {"files": {}, "seal": "0"})
    assert run(monkeypatch, "verify", "bases/base", "--json") == 1
    (found,) = json.loads(capsys.readouterr().out)["findings"]
    assert found["wrong"] == ["base.json is edited"]
    assert found["rebuild"] == "snakemake --cores 1 --force results/bases/base/base.json"


def test_why_for_programs(project_file, monkeypatch, capsys):
    from posttrain.provenance import explain

    monkeypatch.setattr(explain.dry_run, "planned", lambda *_: [])
    assert run(monkeypatch, "why", "sft", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"changes": [], "gone": []}


def test_another_configuration_is_named(project_file, monkeypatch, capsys):
    project_file.rename("other.yaml")
    assert run(monkeypatch, "verify", "sft", "--configfile", "other.yaml") == 0
    assert run(monkeypatch, "verify", "smollm2") == 0  # the repository's own, where the folder has none


def test_the_configuration_of_the_last_command_is_read(project_file, monkeypatch, capsys, configuration):
    Path("shop.yaml").write_text(
        yaml.safe_dump(configuration({"runs.own": {"from": "base", "objective": "sft", "data": "chats"}}))
    )
    LAST_CONFIGURATION.parent.mkdir()
    LAST_CONFIGURATION.write_text("shop.yaml\n")
    assert run(monkeypatch, "verify", "own") == 0
    said = capsys.readouterr()
    assert (
        said.err
        == "posttrain: reads shop.yaml, as the last snakemake command here did; --configfile FILE names another\n"
    )
    assert run(monkeypatch, "verify", "own", "--configfile", "config/config.yaml") == 1
    Path("shop.yaml").unlink()
    assert run(monkeypatch, "verify", "sft") == 0
    LAST_CONFIGURATION.write_text("config/config.yaml\n")
    capsys.readouterr()
    assert run(monkeypatch, "verify", "sft") == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("text", "said"),
    [("a: [", "it cannot be read"), ("- a", "it has no keys"), (None, "it cannot be read"), ("runs: {x: 1}", "runs.x")],
)
@pytest.mark.parametrize("name", ["verify", "why", "rebuild-check", "send-mlflow"])
def test_a_configuration_that_cannot_be_used_is_one_sentence(in_folder, monkeypatch, name, text, said):
    if text:
        Path("c.yaml").write_text(text)
    monkeypatch.setattr(sys, "argv", ["posttrain", name, "sft", "--configfile", "c.yaml"])
    with pytest.raises(SystemExit, match=said) as end:
        main.main()
    assert str(end.value).startswith(("posttrain: c.yaml: ", "posttrain: runs.x: ")) and "\n" not in str(end.value)


def test_why_says_nothing_or_the_causes(project_file, monkeypatch, capsys):
    from posttrain.provenance import explain

    monkeypatch.setattr(explain.dry_run, "planned", lambda *_: [])
    assert run(monkeypatch, "why", "sft") == 0
    assert capsys.readouterr().out == "nothing: sft is up to date\n"
    write_json(Path("results/sft/provenance.json"), {})
    for name in ("trained", "merged"):
        Path(f"results/sft/{name}").mkdir()
    assert run(monkeypatch, "why", "sft") == 0
    assert (
        capsys.readouterr().out
        == "results/sft/model is gone; to build it again: snakemake --cores 1 results/sft/model\n"
    )


def test_rebuild_check_and_send_mlflow_refuse_what_is_not_built(project_file, monkeypatch):
    for name in ("rebuild-check", "send-mlflow"):
        assert run(monkeypatch, name, "sft") == 1


# ---- help and completion


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "recommend --gpu-memory sixteen",
            "--gpu-memory: invalid float value: 'sixteen'; see `posttrain recommend --help`",
        ),
        ("why", "the following arguments are required: TARGET; see `posttrain why --help`"),
        ("verify --jsn", "unrecognized arguments: --jsn; see `posttrain --help`"),
    ],
)
def test_a_wrong_argument_is_one_sentence(words, said, capsys):
    with pytest.raises(SystemExit) as end:
        parser().parse_args(words.split())
    assert (end.value.code, capsys.readouterr().err) == (2, f"posttrain: {said}\n")


def test_an_unknown_command_is_one_sentence(capsys):
    with pytest.raises(SystemExit):
        parser().parse_args(["plant"])
    assert capsys.readouterr().err.startswith("posttrain: COMMAND: invalid choice: 'plant' (")


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_its_module_and_examples_that_parse(name):
    module = {"import": "import_"}.get(name, name.replace("-", "_"))
    assert callable(importlib.import_module(f"posttrain.cli.{module}").run)
    for example in COMMANDS[name].examples:
        for words in re.findall(r"posttrain ([^|#)]+)", example):
            assert parser().parse_args(shlex.split(words)).command == name


def test_the_help_names_every_command(capsys):
    with pytest.raises(SystemExit):
        parser().parse_args(["--help"])
    said = capsys.readouterr().out
    assert re.findall(r"^(?:\w+ \w*)? +([a-z-]+)  +", said.split("\n\n", 3)[3], re.M) and all(
        name in said for name in COMMANDS
    )
    assert max(map(len, said.splitlines())) <= 120


def completed(words: str) -> list[str]:
    """What a shell offers after these words."""
    variables = {
        "_ARGCOMPLETE": "1",
        "COMP_LINE": words,
        "COMP_POINT": str(len(words)),
        "_ARGCOMPLETE_STDOUT_FILENAME": "said",
    }
    subprocess.run(
        [sys.executable, "-m", "posttrain.cli"],
        env=os.environ | {"PYTHONPATH": str(SCRIPTS), "_ARGCOMPLETE_SUPPRESS_SPACE": "1"} | variables,
        check=True,
        timeout=60,
    )
    return Path("said").read_text().split("\v")


def test_a_shell_completes_commands_and_the_names_of_runs(project_file):
    assert completed("posttrain ver") == ["verify"]
    assert completed("posttrain why d") == ["dpo"]
    assert {"base", "sft", "dpo"} <= {*completed("posttrain table ")}
    assert completed("posttrain why --configfile nowhere.yaml d") == [""]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_lines_for_a_shell(shell, monkeypatch, capsys):
    assert run(monkeypatch, "completion", shell) == 0
    assert "posttrain" in capsys.readouterr().out

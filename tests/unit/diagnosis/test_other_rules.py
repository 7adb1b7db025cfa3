"""Memory, machine, preflight, exports and errors."""

import pytest

from posttrain.diagnosis import doctor, other_rules
from posttrain.diagnosis.findings import CLASSES, FINDINGS, GUIDE

from .made import SPEC, falling, noise, run


def find(found):
    return list(other_rules.find(found))


def codes(found):
    return [finding.code for finding in find(found)]


def test_out_of_memory():
    found = run(SPEC, loss=falling(20))
    found.attempts = [
        {"micro_batch": 8, "accumulation": 1, "last_step": 0, "memory_gib": 15.1, "why": "CUDA out of memory"}
    ]
    (finding,) = find(found)
    assert finding.code == "out-of-memory" and "8 rows at once" in finding.sentence
    assert finding.changes == (
        {"gradient_accumulation_steps": 8}, {"gradient_checkpointing": True}, {"method": "qlora"}, {"max_length": 512},
    )  # fmt: skip
    found.train = {"micro_batch": 4, "accumulation": 2}
    assert find(found)[0].changes == ({"gradient_accumulation_steps": 2},)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ("run: out of memory with 1 row at once, the fewest possible; write method: qlora", ["out-of-memory"]),
        ("RuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB", ["out-of-memory"]),
        ("run: the loss is nan at step 3", []),  # which is `diverged`
        ("data rows: no row is held out", ["failed"]),
    ],
)
def test_errors(error, code):
    found = run(SPEC, loss=falling(20))
    found.error = error
    assert codes(found) == code


def test_the_gpu():
    def used(gpu, cpu):
        return run(SPEC, loss=falling(40), gpu_percent=[gpu] * 40, cpu_percent=[cpu] * 40)

    assert codes(used(97, 10)) == []
    assert codes(used(20, 8)) == ["device-underused"]
    assert codes(used(20, 95)) == ["data-bound"]
    assert codes(run(SPEC, loss=falling(40), cpu_percent=[95] * 40)) == []  # no GPU


def checked(name, result, message="what is wrong; write max_length: 900 to keep them"):
    found = run(SPEC, loss=falling(20))
    found.preflight = {"checks": [{"name": name, "result": result, "message": message}]}
    return found


@pytest.mark.parametrize(("name", "code"), other_rules.OF_CHECKS.items())
def test_checks_that_were_overruled(name, code):
    (finding,) = find(checked(name, "allowed"))
    assert finding.code == code and "overruled" in finding.sentence
    assert codes(checked(name, "passed")) == codes(checked(name, "skipped")) == []


def test_a_check_names_the_run_to_try():
    (finding,) = find(checked("truncation", "warning"))
    assert finding.changes == ({"max_length": 900},)


def test_templates():
    chatml = "<|im_start|>{{ role }}\n{{ text }}<|im_end|>"
    found = run(SPEC, loss=falling(20))
    found.templates = (chatml, f"{chatml} edited")
    assert codes(found) == []
    found.templates = (chatml, "### Instruction:\n{{ text }}")
    assert codes(found) == ["template-mismatch"]
    found.templates = ("", "")
    found.proofs = {"gguf-q8_0": {"same_tokens": {"value": 0.5, "n": 40}, "same_template": {"value": 1.0, "n": 40}}}
    (finding,) = find(found)
    assert finding.code == "template-mismatch" and "gguf-q8_0: 50% of 40 prompts" in finding.sentence


def test_every_finding_has_a_class_and_every_remedy_of_the_guide_a_finding():
    assert {kind.group for kind in FINDINGS.values()} == set(CLASSES)
    assert {row for kind in FINDINGS.values() for row in kind.guide} == set(GUIDE)


def test_a_cause_is_told_before_what_follows_from_it():
    found = checked("stop_token", "allowed")
    found.steps = run(SPEC, loss=[0.0] * 20).steps
    assert [finding.code for finding in doctor.examine(found)] == ["loss-zero", "stop-token-not-learnt"]


def test_a_model_that_has_learnt_nothing_is_not_blamed_for_its_answers():
    found = run(SPEC, loss=2 + noise(90, 0.01))
    answer = {"suite": "", "reference": "short", "output": "x" * 200, "tokens": 50, "limit": 50, "ended": False}
    found.answers = [answer] * 20
    assert [finding.code for finding in doctor.examine(found)] == ["flat-loss"]
    found.steps = run(SPEC, loss=falling(90)).steps
    assert [finding.code for finding in doctor.examine(found)] == ["stop-token-not-learnt"]

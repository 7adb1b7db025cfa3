"""The section `export`, and the targets of exports."""

import pytest

from posttrain import exports
from posttrain.methods import METHODS
from posttrain.objectives import OBJECTIVES
from posttrain.runtime.errors import UserError
from posttrain.workflow.project import Project


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"export.kinds": ["onnx"]}, "unsupported-export", "optimum-onnx needs transformers < 4.58"),
        ({"export.kinds": ["gguf_q8"]}, "unknown-name", "did you mean 'gguf-q8_0'?"),
        ({"export.kinds": []}, "invalid-value", "export.kinds"),
        ({"export.rows": 0}, "invalid-value", "export.rows"),
        ({"export.limits.agreement": 1}, "unknown-key", "did you mean 'greedy_agreement'?"),
        ({"export.limits.greedy_agreement": 1.5}, "invalid-value", "export.limits.greedy_agreement"),
    ],
)
def test_a_mistake_is_told_in_a_sentence(configuration, changes, code, words):
    with pytest.raises(UserError) as refused:
        Project(configuration(changes))
    assert refused.value.code == code and words in str(refused.value)


@pytest.mark.parametrize(
    ("target", "code", "words"),
    [
        ("results/sft/export/fp8.json", "unsupported-export", "llm-compressor needs transformers <= 5.17"),
        ("results/sft/export/nf5", "unsupported-export", "did you mean 'nf4'?"),
        ("results/full/export/adapter", "unsupported-export", "has no adapter"),
        ("results/soft/export/nf4.json", "unsupported-export", "cannot be merged"),
        ("results/base/export/nf4", "unsupported-export", "base is a base, and only runs are exported"),
    ],
)
def test_a_target_that_a_run_cannot_have_is_refused(configuration, in_folder, target, code, words):
    soft = {"from": "base", "objective": "sft", "method": "prefix", "data": "chats"}
    with pytest.raises(UserError) as refused:
        Project(configuration({"runs.soft": soft})).check_targets([target])
    assert refused.value.code == code and words in str(refused.value)


def test_limits_change_the_proof_and_not_what_it_compares_with(configuration):
    plain = Project(configuration())
    limited = Project(configuration({"export.limits.size_bytes": 5}))
    assert plain.spec("sft/export") != limited.spec("sft/export")
    assert plain.export_reference("sft") == limited.export_reference("sft")
    assert plain.export_reference("sft") != Project(configuration({"export.rows": 5})).export_reference("sft")
    assert plain.spec("sft") == limited.spec("sft")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_run_can_have_some_export(method, objective):
    possible = exports.possible(method, objective)
    if OBJECTIVES[objective].classifier:  # which ships as model/
        assert not possible
        return
    assert possible and all(exports.EXPORTS[kind].is_adapter for kind in possible) == (not METHODS[method].mergeable)

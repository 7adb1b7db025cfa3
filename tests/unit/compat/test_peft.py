"""PEFT's internals are as compat/ takes them to be."""

import inspect

import pytest
from peft import AdaLoraConfig, PeftConfig, PeftType, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners import tuners_utils
from peft.utils import register_peft_method
from peft.utils.other import TrainableTokensWrapper

from posttrain.compat import peft_internals, peft_registry
from posttrain.models import bottleneck


def test_peft_refuses_a_name_that_is_not_in_its_enum():
    with pytest.raises(ValueError, match="please add an entry to"):  # else `peft_registry` has nothing left to do
        register_peft_method(name="unknown", config_cls=PeftConfig, model_cls=object)


def test_a_registered_method_is_one_of_pefts_own():
    member = PeftType.BOTTLENECK
    assert PeftType("BOTTLENECK") is member and member in list(PeftType) and member == "BOTTLENECK"
    assert PEFT_TYPE_TO_CONFIG_MAPPING[member] is bottleneck.BottleneckConfig
    assert PEFT_TYPE_TO_TUNER_MAPPING[member] is bottleneck.BottleneckModel
    before = len(PeftType)
    peft_registry.register("bottleneck", bottleneck.BottleneckConfig, bottleneck.BottleneckModel)
    assert len(PeftType) == before


def test_a_tuners_hooks_are_called_by_peft():
    source = inspect.getsource(tuners_utils)
    for hook in peft_registry.HOOKS:
        assert callable(getattr(tuners_utils.BaseTuner, hook)) and f"self.{hook}(" in source
        assert hook in vars(bottleneck.BottleneckModel)


def test_pefts_wrapper_of_token_rows_shows_no_bias_of_its_own():
    peft_internals.give_token_wrapper_a_bias()
    assert TrainableTokensWrapper.bias.fget is peft_internals._bias
    others = [cls for cls in TrainableTokensWrapper.__mro__[1:] if "bias" in vars(cls)]
    assert not others


def test_the_places_of_ia3_are_known_by_architecture():
    assert peft_internals.knows_ia3_targets("llama")
    assert not peft_internals.knows_ia3_targets("unknown")


def test_adaloras_allocator_has_the_state_that_is_kept(random_tiny_model):
    config = AdaLoraConfig(
        target_r=2, init_r=3, tinit=1, tfinal=1, total_step=9, task_type="CAUSAL_LM", target_modules=["q_proj"]
    )
    tuner = get_peft_model(random_tiny_model, config).base_model
    tuner.rankallocator.ipt["x"] = 1.0
    state = peft_internals.allocator_state(tuner)
    assert state["ipt"] == {"x": 1.0} and state.keys() == set(peft_internals.ALLOCATOR_STATE)
    peft_internals.set_allocator_state(tuner, {key: {"y": 2.0} for key in peft_internals.ALLOCATOR_STATE})
    assert tuner.rankallocator.exp_avg_unc == {"y": 2.0}

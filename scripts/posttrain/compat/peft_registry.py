"""Register a method with PEFT that PEFT does not have.

Checked with PEFT 0.21.2: `register_peft_method` takes the names of `PeftType` only, and an Enum takes no new member, so the member
is added as the class statement adds one. It can go once `register_peft_method` accepts new names.

A method's model is a `BaseTuner`, whose hooks have names that begin with `_` in PEFT's own methods as well: `HOOKS` are those that
`models/bottleneck.py` has.
"""

from typing import Any

from peft import PeftType
from peft.utils import register_peft_method

CHECKED = {"peft": "0.21.2"}
HOOKS = ("_prepare_adapter_config", "_create_and_replace", "_replace_module", "_check_merge_allowed")


def register(name: str, config: type, model: type) -> None:
    """Make a method one of PEFT's own for `get_peft_model`, `PeftModel.from_pretrained` and TRL's trainers; once a process.

    Args:
        name: in lower-case letters.
        config: a `PeftConfig` whose `peft_type` is the name in capitals.
        model: a `BaseTuner`.
    """
    if name.upper() not in PeftType.__members__:
        add_type(name.upper())
        register_peft_method(name=name, config_cls=config, model_cls=model)


def add_type(name: str) -> Any:
    """Add a member to the Enum `PeftType`."""
    member = str.__new__(PeftType, name)
    member._name_ = member._value_ = name
    setattr(PeftType, name, member)
    PeftType._member_names_.append(name)
    PeftType._member_map_[name] = PeftType._value2member_map_[name] = member
    return member

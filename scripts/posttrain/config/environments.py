"""The name of an environment, as runs and evaluation suites have it."""

from typing import Annotated

from pydantic import AfterValidator

from posttrain.config.fields import Mistake
from posttrain.inference.environments import BUILT_IN
from posttrain.runtime import user_code
from posttrain.runtime.errors import nearest

NAMES = ", ".join(f"`{name}`" for name in BUILT_IN)


def _known(name: str) -> str:
    if name not in BUILT_IN and not user_code.is_own(name):
        problem = f"there is no environment '{name}', and your own has the form FILE.py:NAME"
        raise Mistake("unknown-name", "", problem, nearest(name, BUILT_IN))
    return name


EnvironmentName = Annotated[str, AfterValidator(_known)]


def own_environment(name: str | None) -> str | None:
    """The environment where it is a class of the user's, `FILE.py:NAME`."""
    return name if name and user_code.is_own(name) else None

"""The fixtures that security tests share with unit tests."""

from unit.conftest import (  # noqa: F401
    configuration,
    in_folder,
    no_settings,
    random_tiny_folder,
    random_tiny_tokenizer,
)

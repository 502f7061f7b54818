"""A configuration from a file; what is wrong with it is said in one sentence, with file, key and remedy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from gpuscan.base.complaints import first_complaint, suggestion
from gpuscan.base.errors import InputError
from gpuscan.files.toml_text import parse_toml_text, read_toml_text
from gpuscan.service.config import Budget, Config, Rule, Settings, Who

_MODELS: dict[str, type[BaseModel]] = {
    "service": Settings,
    "budget": Budget,
    "rule": Rule,
    "exclude": Who,
}


def load_config(path: Path) -> Config:
    """Return the configuration in a file.

    Raises:
        InputError: it cannot be read, has an unknown key, or a value that does not fit.
    """
    text = read_toml_text(path, "configuration", "give a TOML file, as docs/service.md has it")
    return config_of(str(path), parse_toml_text(str(path), text))


def config_of(where: str, document: dict[str, Any]) -> Config:
    """Check the keys of a configuration.

    Raises:
        InputError: an unknown key, or a value that does not fit.
    """
    try:
        return Config.model_validate(document)
    except ValidationError as error:
        raise InputError(f"{where}: {first_complaint(error, 'the configuration', _unknown)}") from error


def _unknown(steps: Sequence[int | str]) -> str:
    model: type[BaseModel] = Config
    for step in steps[:-1]:
        model = _MODELS.get(str(step), model)
    return suggestion(str(steps[-1]), list(model.model_fields))

"""Where settings come from: the file, the environment, and which of them was wrong."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, get_origin

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import EnvSettingsSource

from schemas.errors import ConfigurationError

PREFIX: Final = "TIERFLOW_"
FILE_VARIABLE: Final = "TIERFLOW_CONFIG"
DELIMITER: Final = "__"


def read_file(file: Path) -> Mapping[str, Any]:
    """A YAML file of settings.

    Raises:
        ConfigurationError: Not there, not YAML (names the line), or not a mapping.
    """
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigurationError(f"settings file {file} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"settings file {file} can't be read: {error}") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise ConfigurationError(f"settings file {file}, line {line}: {error.problem}") from None
    except yaml.YAMLError:
        raise ConfigurationError(f"settings file {file} is not YAML") from None
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise ConfigurationError(f"settings file {file} must hold sections such as kafka, by name")
    return found


class Variables(EnvSettingsSource):
    """Environment variables: what is not a single value is JSON, or for a plain list the items with commas between."""

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """Make a value from a variable's text.

        Raises:
            ConfigurationError: Neither JSON nor a plain list.
        """
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError:
            if get_origin(field.annotation) in {frozenset, tuple, list} and value.lstrip()[:1] not in {"[", "{"}:
                return [item.strip() for item in value.split(",") if item.strip()]
            raise ConfigurationError(f"environment variable {PREFIX}...{field_name.upper()} must be JSON") from None


def refuse_unknown_variables(sections: Iterable[str]) -> None:
    """A mistyped section in a variable's name would go unseen: pydantic-settings looks only for names that it knows.

    Raises:
        ConfigurationError: Names the variable.
    """
    known = set(sections)
    for variable in sorted(os.environ):
        section, delimiter, _ = variable.upper().removeprefix(PREFIX).partition(DELIMITER)
        if variable.upper().startswith(PREFIX) and delimiter and section.lower() not in known:
            close = get_close_matches(section.lower(), known, 1)
            hint = f"did you mean {PREFIX}{close[0].upper()}{DELIMITER}...?" if close else f"known: {sorted(known)}"
            raise ConfigurationError(f"environment variable {variable}: there is no section {section.lower()}; {hint}")


def explain(error: ValidationError, from_file: Mapping[str, Any], file: Path | None) -> str:
    """Every wrong setting with where it came from and what would be right, without its value: it may be a secret."""
    found = error.errors(include_url=False, include_input=False, include_context=False)
    return "; ".join(_line(item["loc"], item["type"], item["msg"], from_file, file) for item in found)


def _line(path: Sequence[str | int], kind: str, message: str, from_file: Mapping[str, Any], file: Path | None) -> str:
    name = ".".join(str(step) for step in path)
    said = message.removeprefix("Value error, ").replace("Input should", "must")
    if kind == "extra_forbidden":
        said = "there is no such setting"
    elif "timedelta" in said and kind == "greater_than_equal":
        said = "must not be negative"
    elif kind.startswith("time_delta"):
        said = "must be a duration: seconds, such as 2.5, or ISO 8601, such as PT2.5S"
    origin = _origin(path, from_file, file)
    return f"{f'{name}: ' if name else ''}{said}{f' ({origin})' if origin else ''}"


def _origin(path: Sequence[str | int], from_file: Mapping[str, Any], file: Path | None) -> str:
    wanted = PREFIX + DELIMITER.join(str(step) for step in path).upper()
    for variable in sorted(os.environ):
        name = variable.upper()
        if path and (name == wanted or wanted.startswith(f"{name}{DELIMITER}")):
            return f"environment variable {variable}"
    place: Any = from_file
    for step in path:
        if not isinstance(place, Mapping) or step not in place:
            return ""
        place = place[step]
    return f"file {file}" if path and file is not None else ""


def flat(tree: Mapping[str, Any], under: str = "") -> Iterator[tuple[str, str]]:
    """Dotted names and values of a dumped tree, in its order."""
    for key, value in tree.items():
        name = f"{under}.{key}" if under else key
        if isinstance(value, Mapping) and value:
            yield from flat(value, name)
        else:
            yield name, "" if value is None or value == {} else str(value)

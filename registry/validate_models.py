"""Checks of single models, and of how steps use them."""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Final

from registry.places import Path, Places
from registry.problems import Problem, Severity
from schemas.catalogue import Model, ProviderKind, StepSpec

PARAMETERS: Final = frozenset(
    {"samples", "vote", "program", "final_answer", "logprobs", "effort"}
    | {"temperature", "top_p", "max_tokens", "seed", "stop"}
)
"""Parameters of a step that workers know for models; Python executors have their own."""
_MAX_SAMPLES: Final = 32
"""More samples than this of one model is a slip of the keyboard, not an ensemble."""
_SECRET: Final = re.compile(
    r"(?i)^(?:.*[_-])?(?:api[_-]?key|secret|password|passwd|authorization|bearer|access[_-]?token|auth[_-]?token)$"
)


def model_problems(model: Model, path: Path, places: Places) -> list[Problem]:
    """What is wrong with one model."""
    problems: list[Problem] = []

    def say(message: str, *field: str, severity: Severity = Severity.ERROR) -> None:
        at = (*path, *field)
        problems.append(Problem(places.label(at), message, places.of(at), severity))

    if not model.name.strip():
        say("must not be empty", "name")
    if model.kind is ProviderKind.PYTHON and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", model.name):
        say(
            f"{model.name!r} is no executor's name: it names an entry point that local settings allow, "
            "never a module or a dotted path",
            "name",
        )
    if model.typical_latency <= timedelta(0):
        say("must be above 0", "typical_latency")
    if model.max_output_tokens > model.context_tokens:
        say(f"{model.max_output_tokens} is above context_tokens ({model.context_tokens})", "max_output_tokens")
    if not model.data_classes:
        say("is empty: no request may be shown to this model", "data_classes", severity=Severity.WARNING)
    if model.task_classes is not None and (unused := sorted(set(model.quality) - model.task_classes)):
        say(f"has {', '.join(unused)}, which task_classes leaves out", "quality", severity=Severity.WARNING)
    for name in _secrets(model.defaults):
        say("looks like a secret, and catalogues are published: put it into local settings (worker.endpoints)", *name)
    return problems


def parameter_problems(step: StepSpec, models: Sequence[Model], path: Path, places: Places) -> list[Problem]:
    """What is wrong with a step's parameters and its check."""
    problems: list[Problem] = []

    def say(field: str, message: str, severity: Severity = Severity.ERROR) -> None:
        at = (*path, *field.split("."))
        problems.append(Problem(places.label(at), message, places.of(at), severity))

    given = step.parameters
    for name, (right, wanted) in _VALUES.items():
        if name in given and not right(given[name]):
            say(f"parameters.{name}", f"must be {wanted}, not {given[name]!r}")
    samples, temperature = given.get("samples"), given.get("temperature")
    if models and all(model.kind is not ProviderKind.PYTHON for model in models):
        for name in sorted(given.keys() - PARAMETERS):
            known = ", ".join(sorted(PARAMETERS))
            say(f"parameters.{name}", f"is no parameter that workers know ({known})", Severity.WARNING)
    several = len(step.models) > 1 or (isinstance(samples, int) and samples > 1)
    if step.accept.min_agreement is not None and not several:
        say("accept.min_agreement", "one sample of one model always agrees with itself", Severity.WARNING)
    if isinstance(samples, int) and samples > 1 and temperature == 0:
        say("parameters.temperature", f"at 0 all {samples} samples are the same", Severity.WARNING)
    for secret in _secrets(given, "parameters"):
        say(".".join(secret), "looks like a secret, and catalogues are published: put it into local settings")
    return problems


def _secrets(values: Mapping[str, object], *path: str) -> list[tuple[str, ...]]:
    """Paths of what is named like a secret and has a value."""
    path = path or ("defaults",)
    found: list[tuple[str, ...]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            found += _secrets(value, *path, str(name))
        elif _SECRET.match(str(name)) and value:
            found.append((*path, str(name)))
    return found


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _whole(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


_VALUES: Final[Mapping[str, tuple[Callable[[object], bool], str]]] = {
    "samples": (lambda value: _whole(value, 1, _MAX_SAMPLES), f"a whole number from 1 to {_MAX_SAMPLES}"),
    "max_tokens": (lambda value: _whole(value, 1, 10_000_000), "a whole number above 0"),
    "temperature": (lambda value: _number(value) and 0 <= float(str(value)) <= 2, "a number from 0 to 2"),
    "vote": (lambda value: value == "answer", "answer, the only kind of vote there is"),
    "program": (lambda value: isinstance(value, bool), "true or false"),
    "final_answer": (lambda value: isinstance(value, bool | str), "true, false or the marker before the answer"),
}
"""What parameters may be, where a wrong one would fail every request of the step."""

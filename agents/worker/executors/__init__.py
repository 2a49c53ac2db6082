"""Python executors: functions that answer a question themselves, where a rule beats a model.

An executor is an entry point of the group ``tierflow.executors``::

    [project.entry-points."tierflow.executors"]
    weekday = "my_package:WEEKDAY"        # WEEKDAY = Executor(run=my_function)

It runs only where local settings name it (``worker.executors``): a catalogue can ask for an executor, never bring one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from types import MappingProxyType
from typing import Final

from schemas.errors import ConfigurationError, MissingExtraError

GROUP: Final = "tierflow.executors"

BUILT_IN: Final[Mapping[str, str]] = MappingProxyType(
    {
        "arithmetic": "agents.worker.executors.arithmetic:EXECUTOR",
        "solver": "agents.worker.executors.solver:EXECUTOR",
    }
)
"""Ours, known also where this code runs from a checkout that was never installed."""


class DeclinedError(Exception):
    """The question is not one for this executor; the step goes on with its next model. The text says why."""


@dataclass(frozen=True, slots=True)
class Question:
    """What an executor is asked.

    Attributes:
        text: Text of the last user message.
        options: The model's defaults in the catalogue.
    """

    text: str
    options: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Executor:
    """A function that answers questions, and how it has to be run.

    Attributes:
        run: Answers, or raises ``DeclinedError``. Called from several threads at once unless isolated.
        isolated: Run it in a child process that is killed at the time limit. Without it the function runs in a thread,
            which nothing can end: only for functions that are sure to be quick.
        limit: Longest time for one question.
        needs: A package and the extra that brings it.
    """

    run: Callable[[Question], str]
    isolated: bool = True
    limit: timedelta = timedelta(seconds=10)
    needs: tuple[str, str] | None = None


@cache
def load(name: str) -> Executor:
    """The executor of that name.

    Raises:
        ConfigurationError: There is none, what is there is no executor, or a package is missing.
    """
    found = {point.name: point.value for point in entry_points(group=GROUP)}
    place = BUILT_IN.get(name) or found.get(name)
    if place is None:
        known = ", ".join(sorted({*BUILT_IN, *found}))
        raise ConfigurationError(f"no executor {name!r} among the entry points {GROUP}: {known}")
    module, _, attribute = place.partition(":")
    try:
        executor = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"executor {name!r} can't be loaded from {place}: {error}") from error
    if not isinstance(executor, Executor):
        raise ConfigurationError(f"executor {name!r}: {place} is a {type(executor).__name__}, not an Executor")
    if executor.needs is not None and find_spec(executor.needs[0]) is None:
        raise MissingExtraError(*executor.needs)
    return executor

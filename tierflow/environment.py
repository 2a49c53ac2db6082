"""Handing settings to child processes: what a child reads from its environment is exactly what the parent has.

Keys of model providers go to workers only; no other agent has a use for them.
"""

import json
import os
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from pydantic import SecretStr

from agents.worker.executors import BUILT_IN
from agents.worker.providers import unbound
from registry.snapshot import Snapshot
from schemas.catalogue import Catalogue, Model, ModelStatus, ProviderKind
from schemas.errors import ConfigurationError
from schemas.settings import EndpointSettings, Settings, WorkerSettings

PREFIX: Final = "TIERFLOW_"
_FILE: Final = "TIERFLOW_CONFIG"
OPENAI_KEY: Final = "OPENAI_API_KEY"
OPENAI_URL: Final = "OPENAI_BASE_URL"
_OPENAI_DEFAULT: Final = "https://api.openai.com/v1"


def environment_of(settings: Settings, *, endpoints: bool, base: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a child that is to have these settings.

    Args:
        settings: Of the parent, whatever they came from.
        endpoints: Whether the child calls models and so needs their keys.
        base: What the child inherits besides; that of this process if None.
    """
    sections = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    kept = {}
    for name, value in (os.environ if base is None else base).items():
        upper = name.upper()  # settings are read without regard to case
        if upper == _FILE or upper in sections or any(upper.startswith(f"{section}__") for section in sections):
            continue
        if not endpoints and upper in {OPENAI_KEY, OPENAI_URL}:
            continue
        kept[name] = value
    for name in Settings.model_fields:
        section = getattr(settings, name)
        if name == "worker" and not endpoints:
            section = section.model_copy(update={"endpoints": {}})
        kept[f"{PREFIX}{name.upper()}"] = json.dumps(section.model_dump(mode="python"), default=_plain)
    return kept


def with_section(settings: Settings, section: str, **values: Any) -> Settings:
    """The same settings with other values in one section."""
    changed = getattr(settings, section).model_copy(update=values)
    return settings.model_copy(update={section: changed})


def classifiers(settings: Settings, snapshot: Snapshot, local: Mapping[str, EndpointSettings]) -> Settings:
    """Settings of a classifier that asks a language model: of all endpoints it gets that one.

    Args:
        settings: Of the installation.
        snapshot: Says where the model is.
        local: Endpoints of local servers.

    Raises:
        CatalogueError: There is no such model.
    """
    model = snapshot.model(settings.classifier.llm.model)
    endpoints = {**settings.worker.endpoints, **local}
    only = {model.endpoint: endpoints[model.endpoint]} if model.endpoint in endpoints else {}
    return with_section(settings, "worker", endpoints=only)


def callable_models(catalogue: Catalogue) -> list[Model]:
    """The models that can be called: active and deprecated ones."""
    return [model for model in catalogue.models if model.status in {ModelStatus.ACTIVE, ModelStatus.DEPRECATED}]


def bound_worker(worker: WorkerSettings, catalogue: Catalogue, environ: Mapping[str, str]) -> WorkerSettings:
    """Worker settings that fit a catalogue as far as that can be done without asking anybody.

    Executors that come with Tierflow are allowed where the catalogue names them. An endpoint of an OpenAI-compatible
    model that no setting binds is made of ``OPENAI_API_KEY`` and ``OPENAI_BASE_URL``, if one of them is set and there
    is only one such endpoint: then there is no doubt which is meant.
    """
    models = callable_models(catalogue)
    ours = {model.name for model in models if model.kind is ProviderKind.PYTHON and model.name in BUILT_IN}
    lacking = {model.endpoint for model in models if model.kind is ProviderKind.OPENAI} - worker.endpoints.keys()
    endpoints = dict(worker.endpoints)
    key, url = environ.get(OPENAI_KEY, "").strip(), environ.get(OPENAI_URL, "").strip()
    if len(lacking) == 1 and (key or url):
        endpoints[lacking.pop()] = EndpointSettings(base_url=url or _OPENAI_DEFAULT, api_key=SecretStr(key))
    return worker.model_copy(update={"executors": worker.executors | ours, "endpoints": endpoints})


def require_bound(worker: WorkerSettings, catalogue: Catalogue) -> None:
    """Check that workers can call every model of a catalogue.

    Raises:
        ConfigurationError: Names what is missing and how to give it.
    """
    missing = unbound(callable_models(catalogue), worker)
    if missing:
        raise ConfigurationError(
            f"catalogue {catalogue.name} can't be served here: {'; '.join(missing)}. Set "
            f"TIERFLOW_WORKER__ENDPOINTS__<NAME>__BASE_URL and __API_KEY, or {OPENAI_KEY} (and {OPENAI_URL}) where one "
            "endpoint serves all models"
        )


def _plain(value: object) -> object:
    """What JSON has no word for."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, frozenset):
        return sorted(value)
    raise TypeError(f"no form for {type(value).__name__}")

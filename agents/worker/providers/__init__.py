"""What answers: one provider an endpoint, made from local settings when a model first needs it."""

from collections.abc import Collection, Iterable
from typing import Protocol

from agents.worker.providers.http import Endpoint
from agents.worker.providers.llama import LlamaProvider
from agents.worker.providers.openai import OpenAIProvider
from agents.worker.providers.python import PythonProvider
from schemas.catalogue import Model, ProviderKind
from schemas.errors import FailureClass, ProviderError
from schemas.ports import Provider
from schemas.settings import WorkerSettings

__all__ = ["LocalProviders", "Providers", "unbound"]


class Providers(Protocol):
    """Finds what answers for a model."""

    def of(self, model: Model) -> Provider:
        """The provider; raises ``ProviderError`` (AUTH) when local settings have none for it."""
        ...

    async def close(self) -> None:
        """Close all of them."""
        ...


class LocalProviders:
    """Providers by kind and endpoint, as local settings bind them.

    Args:
        settings: Endpoints with their keys, and the executors that are allowed.

    Raises:
        ConfigurationError: The base URL of an endpoint is wrong.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._endpoints = {name: Endpoint(name, endpoint) for name, endpoint in settings.endpoints.items()}
        self._made: dict[tuple[ProviderKind, str], Provider] = {}

    def of(self, model: Model) -> Provider:
        """The provider of a model.

        Raises:
            ProviderError: AUTH; the model names an endpoint that is not bound here.
        """
        key = (model.kind, "" if model.kind is ProviderKind.PYTHON else model.endpoint)
        provider = self._made.get(key)
        if provider is None:
            provider = self._made[key] = self._make(model)
        return provider

    async def close(self) -> None:
        """Close all providers; they are made again when needed again."""
        made, self._made = self._made, {}
        for provider in made.values():
            await provider.close()

    def _make(self, model: Model) -> Provider:
        if model.kind is ProviderKind.PYTHON:
            return PythonProvider(self._settings.executors)
        endpoint = self._endpoints.get(model.endpoint)
        if endpoint is None:
            raise ProviderError(
                FailureClass.AUTH, f"{model.ref}: no endpoint {model.endpoint} here; set worker.endpoints"
            )
        if model.kind is ProviderKind.LLAMA:
            return LlamaProvider(endpoint, self._settings.endpoints[model.endpoint].cpu_pid)
        return OpenAIProvider(endpoint)


def unbound(models: Iterable[Model], settings: WorkerSettings) -> list[str]:
    """What local settings lack for these models, one line each: for checks before a start."""
    lacks: list[str] = []
    for model in models:
        allowed: Collection[str] = (
            settings.executors if model.kind is ProviderKind.PYTHON else settings.endpoints.keys()
        )
        name = model.name if model.kind is ProviderKind.PYTHON else model.endpoint
        if name not in allowed:
            section = "executors" if model.kind is ProviderKind.PYTHON else "endpoints"
            lacks.append(f"worker.{section}: {name} is missing, {model.ref} needs it")
    return lacks

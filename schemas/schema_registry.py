"""A small client of schema registries that speak Confluent's REST interface.

Apart from ``schemas.confluent``: most installations have no registry, and every agent would import its HTTP client.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Final

import httpx

from schemas.errors import ConfigurationError, SchemaRegistryError

_MEDIA_TYPE: Final = "application/vnd.schemaregistry.v1+json"
_NOT_FOUND: Final = 404


class HttpSchemaRegistry:
    """A registry over HTTP.

    Args:
        url: Base URL.
        auth: User and password, if it asks for them.
        timeout: After this a request counts as failed.
        may_register: Whether schemas that it does not have are registered, or only looked up.
        transport: Replaces the network in tests.

    Raises:
        ConfigurationError: The URL is none.
    """

    def __init__(
        self,
        url: str,
        *,
        auth: tuple[str, str] | None = None,
        timeout: timedelta = timedelta(seconds=5),
        may_register: bool = True,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ConfigurationError(f"codec.schema_registry_url: {url!r} is no http or https URL")
        self._may_register = may_register
        self._client = httpx.Client(
            base_url=url,
            auth=auth,
            timeout=timeout.total_seconds(),
            headers={"accept": _MEDIA_TYPE, "content-type": _MEDIA_TYPE},
            transport=transport,
        )

    def register(self, subject: str, schema: str) -> int:
        """See ``SchemaRegistry``."""
        path = f"/subjects/{subject}"
        status, body = self._ask("POST", path, {"schema": schema})
        if status == _NOT_FOUND:
            if not self._may_register:
                raise ConfigurationError(f"the schema registry has no schema of ours under subject {subject}")
            status, body = self._ask("POST", f"{path}/versions", {"schema": schema})
        if status >= httpx.codes.BAD_REQUEST:
            raise ConfigurationError(f"the schema registry refuses {subject}: {status} {body.get('message', '')}")
        return _id_in(body)

    def schema(self, schema_id: int) -> str | None:
        """See ``SchemaRegistry``."""
        status, body = self._ask("GET", f"/schemas/ids/{schema_id}")
        if status == _NOT_FOUND:
            return None
        if status >= httpx.codes.BAD_REQUEST:
            raise SchemaRegistryError(f"the schema registry answers {status} for schema id {schema_id}")
        if body.get("schemaType", "AVRO") != "AVRO":
            raise ValueError(f"schema id {schema_id} is {body['schemaType']}, only Avro is read")
        if body.get("references"):
            raise ValueError(f"schema id {schema_id} refers to other schemas, which is not read")
        return str(body["schema"])

    def close(self) -> None:
        """See ``SchemaRegistry``."""
        self._client.close()

    def _ask(self, method: str, path: str, body: Mapping[str, str] | None = None) -> tuple[int, Mapping[str, object]]:
        try:
            response = self._client.request(method, path, json=body)
            answer = response.json()
        except (httpx.HTTPError, ValueError) as error:
            raise SchemaRegistryError(f"the schema registry does not answer: {type(error).__name__}") from error
        if response.status_code >= httpx.codes.INTERNAL_SERVER_ERROR or not isinstance(answer, dict):
            raise SchemaRegistryError(f"the schema registry answers {response.status_code}")
        return response.status_code, answer


def _id_in(body: Mapping[str, object]) -> int:
    found = body.get("id")
    if not isinstance(found, int):
        raise SchemaRegistryError("the schema registry's answer has no id")
    return found

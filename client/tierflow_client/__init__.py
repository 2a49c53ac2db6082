"""Ask Tierflow from Python.

::

    async with Client("127.0.0.1:9092") as client:
        result = await client.ask("What is the capital of Peru?")
        print(result.output)

Everything travels as JSON with headers, over plain Kafka; nothing of Tierflow itself is needed.
"""

from tierflow_client.client import Client, Handle
from tierflow_client.errors import (
    BrokerError,
    ClientClosedError,
    ClientError,
    InvalidRequestError,
    NoResultError,
    UnreadableResultError,
)
from tierflow_client.ids import uuid7
from tierflow_client.request import Message
from tierflow_client.result import Redaction, Result, Status, Verdict
from tierflow_client.stream import ResultStream

__all__ = [
    "BrokerError",
    "Client",
    "ClientClosedError",
    "ClientError",
    "Handle",
    "InvalidRequestError",
    "Message",
    "NoResultError",
    "Redaction",
    "Result",
    "ResultStream",
    "Status",
    "UnreadableResultError",
    "Verdict",
    "uuid7",
]

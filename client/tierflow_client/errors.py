"""What can go wrong at the client.

The tree::

    ClientError
    ├── InvalidRequestError     an argument makes no request; nothing was sent (also a ValueError)
    ├── BrokerError             Kafka did not take or give a record
    ├── NoResultError           no result in time; it may come yet (also a TimeoutError)
    ├── UnreadableResultError   a result that is no JSON of ours
    └── ClientClosedError       the client was closed while somebody waited, or was never opened

That a request was refused, failed or expired is no error here: it is a result with that status.
"""


class ClientError(Exception):
    """Base of all errors raised on purpose."""


class InvalidRequestError(ClientError, ValueError):
    """An argument makes no request; nothing was sent."""


class BrokerError(ClientError):
    """Kafka did not take or give a record; the client's own error is the cause."""


class NoResultError(ClientError, TimeoutError):
    """No result came in time. The request may still be worked on; waiting again is allowed."""


class UnreadableResultError(ClientError):
    """A result that can't be read as JSON of ours."""


class ClientClosedError(ClientError):
    """The client was closed while somebody waited, or is not open."""

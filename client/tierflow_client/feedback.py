"""Making the record that says how good an answer was."""

import json
import time
from collections.abc import Mapping
from typing import Final, Literal

from tierflow_client import headers
from tierflow_client.errors import InvalidRequestError
from tierflow_client.ids import uuid7
from tierflow_client.request import Record

Rater = Literal["human", "judge", "program"]
RATERS: Final = ("human", "judge", "program")


def make_feedback(
    request_id: str,
    score: float | None = None,
    *,
    by: Rater = "human",
    task_class: str = "",
    comment: str = "",
    author: str = "",
    preferred: str | None = None,
    tenant: str = "",
    metadata: Mapping[str, str] | None = None,
) -> Record:
    """The record of a word on an answer; see ``Client.feedback``.

    Raises:
        InvalidRequestError: An argument makes no feedback; names it.
    """
    if score is None and not task_class:
        raise InvalidRequestError("give a score, a task_class or both")
    if score is not None and not 0 <= score <= 1:
        raise InvalidRequestError(f"score is {score}, must be from 0 (bad) to 1 (good)")
    if by not in RATERS:
        raise InvalidRequestError(f"by is {by!r}, must be one of {', '.join(RATERS)}")
    value = {
        "feedback_id": uuid7(),
        "request_id": request_id,
        "rating": None if score is None else float(score),
        "preferred_output": preferred,
        "reason": comment,
        "author": author,
        "kind": by,
        "given_at_ms": time.time_ns() // 1_000_000,
        "metadata": {**(metadata or {}), **({"task_class": task_class} if task_class else {})},
    }
    texts = {headers.CONTENT_TYPE: headers.JSON, headers.REQUEST_ID: request_id, headers.TENANT: tenant}
    return Record(
        request_id=request_id,
        key=request_id.encode(),
        value=json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(),
        headers=tuple((name, text.encode()) for name, text in texts.items() if text),
        lifetime=None,
    )

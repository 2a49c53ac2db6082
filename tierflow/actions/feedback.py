"""``tierflow feedback``."""

import time

from schemas.codec import Codec
from schemas.edges import Feedback
from schemas.headers import JSON, Header, Name
from schemas.ids import uuid7
from streams.records import OutRecord
from streams.topics import FEEDBACK
from tierflow.front import Front
from tierflow.sending import open_sender


async def feedback(
    front: Front,
    request_id: str,
    *,
    score: float | None,
    by: str,
    comment: str,
    task_class: str,
    author: str,
    tenant: str,
) -> None:
    """Publish a word on an answer.

    Raises:
        DeliveryError: The broker.
    """
    said = Feedback(
        feedback_id=uuid7(),
        request_id=request_id,
        rating=score,
        reason=comment,
        author=author,
        kind=by,
        given_at_ms=time.time_ns() // 1_000_000,
        metadata={"task_class": task_class} if task_class else {},
    )
    headers: list[Header] = [(Name.REQUEST_ID.value, request_id.encode()), (Name.CONTENT_TYPE.value, JSON.encode())]
    if tenant:
        headers.append((Name.TENANT.value, tenant.encode()))
    platform = await front.platform()
    topic = platform.names.topic(FEEDBACK)
    record = OutRecord(topic, request_id.encode(), Codec().encode_as(said, JSON), headers)
    async with open_sender(platform) as sink:
        await sink.commit([record], {})
    front.console.line(said.feedback_id)
    front.console.emit(said.model_dump(mode="json", exclude_none=True))

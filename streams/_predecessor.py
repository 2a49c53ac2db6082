"""Puts out of the group what is left of this process's last life, so that nobody waits for its session to end.

A killed member stays in its group until its session times out, and a member that joins waits for it: 15 s by default,
also where the same process is started again at once. But this one knows better: whoever was there under its own name is
dead, or fenced by the transactional id that both use. So it notes such members before it joins, and lets them leave as
soon as it has. (After, since a group that was empty for a moment waits for more members: 3 s by default.)

A member that was put out wrongly, because it lives under the same name, finds that out at its next heartbeat, joins
again, and cannot commit anything of what it had: the same as after any rebalance.
"""

import asyncio
import logging
from collections.abc import Collection, Sequence
from typing import Final

from streams._aiokafka import GROUP, LinkError, Membership, Wire
from streams._codes import Code, describe
from streams.errors import NotPermittedError

_LOG = logging.getLogger(__name__)

_PAUSE_S: Final = 0.05
_LIMIT_S: Final = 5.0
"""For joining; after that the session's end has to do."""
_JOINING: Final = "PreparingRebalance"


class Predecessor:
    """Members of a group under this client's own name, from before it joined.

    Args:
        wire: Connection to the brokers.
        group: Group id.
        client_id: The name; must be used by nobody who lives.
    """

    def __init__(self, wire: Wire, *, group: str, client_id: str) -> None:
        self._wire, self._group, self._client_id = wire, group, client_id
        self._before: Collection[str] = ()
        self._members: Collection[str] = ()

    async def note(self) -> bool:
        """Look who is there under our name; before joining. Whether there is anybody.

        A broker that does not answer, or does not let us see its groups, leaves us with nobody.
        """
        try:
            _, members = await self._described()
        except (LinkError, NotPermittedError) as error:
            _LOG.debug("group %s is not looked at: %s", self._group, error)
            members = ()
        self._before = {member for member, _ in members}
        self._members = [member for member, client_id in members if client_id == self._client_id]
        return bool(self._members)

    async def put_out(self) -> None:
        """Wait until we are on our way into the group, then let the noted ones leave it."""
        try:
            async with asyncio.timeout(_LIMIT_S):
                while not await self._joining():  # noqa: ASYNC110 - the broker is asked, nobody tells
                    await asyncio.sleep(_PAUSE_S)
            node = await self._wire.coordinator(GROUP, self._group)
            for member in self._members:
                code = await self._wire.leave_group(node, Membership(self._group, -1, member, None))
                gone = code in {Code.OK, Code.UNKNOWN_MEMBER_ID}
                _LOG.info("put %s out of group %s: %s", member, self._group, "done" if gone else describe(code))
        except (LinkError, NotPermittedError, TimeoutError) as error:
            _LOG.info("what is left of %s stays in group %s until its session ends: %r",
                      self._client_id, self._group, error)  # fmt: skip

    async def _joining(self) -> bool:
        state, members = await self._described()
        return state == _JOINING or any(member not in self._before for member, _ in members)

    async def _described(self) -> tuple[str, Sequence[tuple[str, str]]]:
        node = await self._wire.coordinator(GROUP, self._group)
        code, state, members = await self._wire.describe_group(node, self._group)
        if code == Code.OK:
            return state, members
        self._wire.forget_coordinator(GROUP, self._group)
        raise LinkError(f"group {self._group}: {describe(code)}")

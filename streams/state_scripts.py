"""What the state store does atomically on its own side, as Lua scripts.

Keys and arguments are named at the head of each script. The keys of a claim (lease, answer, note) may lie on different
slots of a cluster; a single server, or a primary with replicas, is what the client speaks to.
"""

import hashlib
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Script:
    """A script and the name under which the server keeps it.

    Attributes:
        text: Lua.
        sha: SHA-1 of the text, as EVALSHA takes it.
    """

    text: str
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        """Compute the name."""
        object.__setattr__(self, "sha", hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest())


RENEW = Script("""
-- KEYS: entry. ARGV: value, lifetime (ms).
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 0
""")

RELEASE = Script("""
-- KEYS: entry. ARGV: value.
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0
""")

# A note is a hash of who wrote it and what, so that an owner who claims again (its first reply was lost) is not shown
# its own note as a dead owner's.
CLAIM = Script("""
-- KEYS: lease, answer, note. ARGV: owner, lease (ms), note, lifetime of the note (ms).
local answer = redis.call('GET', KEYS[2])
if answer then
  return {'answered', answer}
end
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
  return {'theirs', holder}
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
local left = redis.call('HMGET', KEYS[3], 'by', 'note')
if left[1] and left[1] ~= ARGV[1] then
  return {'mine', left[2]}
end
redis.call('HSET', KEYS[3], 'by', ARGV[1], 'note', ARGV[3])
redis.call('PEXPIRE', KEYS[3], ARGV[4])
return {'mine'}
""")

ANNOTATE = Script("""
-- KEYS: lease, note. ARGV: owner, note, lifetime of the note (ms).
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
redis.call('HSET', KEYS[2], 'by', ARGV[1], 'note', ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return 1
""")

SETTLE = Script("""
-- KEYS: lease, answer, note. ARGV: owner, answer, lifetime of the answer (ms).
local first = redis.call('SET', KEYS[2], ARGV[2], 'NX', 'GET', 'PX', ARGV[3])
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('DEL', KEYS[1])
end
if redis.call('HGET', KEYS[3], 'by') == ARGV[1] then
  redis.call('DEL', KEYS[3])
end
return first
""")

SCRIPTS = (RENEW, RELEASE, CLAIM, ANNOTATE, SETTLE)
"""All of them; each connection loads them, so that later calls name them by hash."""

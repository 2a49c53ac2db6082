"""Which partition a key belongs to: the murmur2 of Kafka's Java client, so that all clients agree on it."""

import struct
from functools import lru_cache

_MASK = 0xFFFFFFFF
_MIX = 0x5BD1E995
_SEED = 0x9747B28C


@lru_cache(maxsize=8192)  # a request's key comes by at every record of it; 8,192 keys are about 1 MB
def murmur2(key: bytes) -> int:
    """MurmurHash2 (32 bits, unsigned) with the seed of Kafka's ``Utils.murmur2``."""
    length = len(key)
    h = _SEED ^ length
    for word in struct.unpack_from(f"<{length >> 2}I", key):
        k = word * _MIX & _MASK
        h = (h * _MIX ^ (k ^ k >> 24) * _MIX) & _MASK
    if rest := length & 3:
        h = (h ^ int.from_bytes(key[length - rest :], "little")) * _MIX & _MASK
    h = (h ^ h >> 13) * _MIX & _MASK
    return h ^ h >> 15


def partition_of(key: bytes, count: int) -> int:
    """The partition that Java's default partitioner gives to a key.

    Args:
        key: The key's bytes.
        count: Number of partitions of the topic.
    """
    return (murmur2(key) & 0x7FFFFFFF) % count

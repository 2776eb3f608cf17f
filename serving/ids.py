"""Identifiers that sort by creation time: UUID version 7 (RFC 9562), as 32 hex digits."""

import os
import time

FIXED = 0x7 << 76 | 0b10 << 62  # version and variant
FREE = ~(0xF << 76 | 0b111 << 61)  # bit 61 stays 0: counting up cannot overflow


def new_id() -> str:
    """Return a new identifier."""
    return new_ids(1)[0]


def new_ids(count: int) -> list[str]:
    """Return identifiers in ascending order; they cannot be guessed from other requests' ids."""
    random = int.from_bytes(os.urandom(10))
    first = time.time_ns() // 1_000_000 << 80 | random & FREE | FIXED
    return [f"{first + i:032x}" for i in range(count)]

"""Identifiers that sort by the time of their making: UUID version 7, as 32 hex digits."""

import os
import time

FIXED = 0x7 << 76 | 0b10 << 62  # version and variant
FREE = ~(0xF << 76 | 0b111 << 61)  # the last of these leaves room to count up


def new_id() -> str:
    """Return a new identifier."""
    return new_ids(1)[0]


def new_ids(count: int) -> list[str]:
    """Return identifiers in rising order; who does not know one cannot guess another."""
    random = int.from_bytes(os.urandom(10))
    first = time.time_ns() // 1_000_000 << 80 | random & FREE | FIXED
    return [f"{first + at:032x}" for at in range(count)]

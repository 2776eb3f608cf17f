"""Identifiers that sort by the time of their making: UUID version 7, as 32 hex digits."""

import os
import time


def new_id() -> str:
    """Return a new identifier."""
    milliseconds = time.time_ns() // 1_000_000
    random = int.from_bytes(os.urandom(10))
    high = milliseconds << 80 | random
    version_and_variant = 0x7 << 76 | 0b10 << 62
    mask = 0xF << 76 | 0b11 << 62
    return f"{high & ~mask | version_and_variant:032x}"

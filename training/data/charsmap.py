"""A table of characters and their replacements, as SentencePiece's precompiled charsmap.

`normalizers.Precompiled` looks every character up in one pass, however long the table is. A
`normalizers.Replace` for each row would scan the text once a row.

    uint32 size of the trie | Darts double-array trie, uint32 a unit | texts, each ended by NUL
"""

import struct
from collections.abc import Mapping

_BLOCK = 256  # units that the bytes after one node can reach
_LEAF = 1 << 31
_HAS_LEAF = 1 << 8


def build_charsmap(table: Mapping[str, str]) -> bytes:
    """Return the charsmap that replaces each key of `table` by its value.

    A key is a character, or a grapheme of at most five bytes in UTF-8, as `Precompiled` reads
    them. An empty value would shift the offsets of a text that begins with the key
    (tokenizers 0.22).

    Raises:
        ValueError: a key or a value is empty or holds NUL, or a key is too long.
    """
    texts = bytearray()
    positions: dict[str, int] = {}
    root: dict[int, dict] = {}  # type: ignore[type-arg]
    for key, value in sorted(table.items()):
        if not key or not value or "\0" in key + value or len(key.encode()) > 5:
            raise ValueError(f"charsmap: got {key!r}: {value!r}, wanted a character and a text")
        if value not in positions:
            positions[value] = len(texts)
            texts += value.encode() + b"\0"
        node = root
        for byte in key.encode():
            node = node.setdefault(byte, {})
        node[0] = positions[value]  # type: ignore[assignment]
    trie = _double_array(root)
    return struct.pack(f"<I{len(trie)}I", 4 * len(trie), *trie) + bytes(texts)


def _double_array(root: dict) -> list[int]:  # type: ignore[type-arg]
    """Return the units: the unit at `base ^ byte` is a node's child, that at `base` its value."""
    units = [0] * _BLOCK
    used, bases = {0}, {0}
    pending = [(0, root)]
    lowest = 1
    while pending:
        place, children = pending.pop()
        while lowest in used:
            lowest += 1
        base = lowest
        # A base of its own: with a shared one, a node would find the other's children.
        while base in bases or any(base ^ byte in used for byte in children):
            base += 1
        bases.add(base)
        # A byte that is no child may be looked up too: its whole block must exist.
        units += [0] * ((base // _BLOCK + 1) * _BLOCK - len(units))
        used.update(base ^ byte for byte in children)
        units[place] |= (place ^ base) << 10
        for byte, child in children.items():
            if byte == 0:
                units[place] |= _HAS_LEAF
                units[base] = child | _LEAF
            else:
                units[base ^ byte] = byte
                pending.append((base ^ byte, child))
    return units

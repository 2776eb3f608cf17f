"""What an archive must do: MongoDB is one, a test's fake is another.

ArchiveError             the archive did not confirm; trying again may help
└── ArchiveRefusedError  its address or our rights there are wrong; trying again will not help
"""

from collections.abc import Sequence
from typing import Protocol

from serving.prediction_log.outbox import Record, Row


class ArchiveError(Exception):
    """The archive did not confirm; the text says why in one sentence, without any secret."""


class ArchiveRefusedError(ArchiveError):
    """The archive's address or our rights there are wrong; trying again will not help."""


class Archive(Protocol):
    """Where predictions and feedback are kept for good."""

    async def prepare(self) -> None:
        """Make what writing needs (indexes). Raises ArchiveError."""

    async def write(self, rows: Sequence[Row]) -> dict[int, str]:
        """Store rows, in any order; return why the archive refused which `seq`.

        All others are then stored as safely as the archive can. Raises ArchiveError when it
        confirmed nothing.
        """

    async def find(self, key: str) -> Record | None:
        """Return a prediction; None if it is unknown or erased. Raises ArchiveError."""

    async def close(self) -> None:
        """Let go of connections."""

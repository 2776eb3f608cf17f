"""The interface of an archive, which stores predictions permanently: MongoDB, or a fake in a test.

ArchiveError             the archive did not confirm; a retry may succeed
└── ArchiveRefusedError  wrong address or missing permission; a retry will not succeed
"""

from collections.abc import Sequence
from typing import Protocol

from serving.prediction_log.outbox import OutboxRow
from serving.prediction_log.records import Document


class ArchiveError(Exception):
    """The archive did not confirm; the message gives the reason and holds no secret."""


class ArchiveRefusedError(ArchiveError):
    """The archive's address is wrong or it denies access; a retry will not succeed."""


class Archive(Protocol):
    """A permanent store for predictions and feedback."""

    async def prepare(self) -> None:
        """Create what writing needs, such as indexes. Raises ArchiveError."""

    async def write(self, rows: Sequence[OutboxRow]) -> dict[int, str]:
        """Store rows in any order; return the reason for each refused row, by its `seq`.

        All other rows are then stored as safely as the archive can. Raises ArchiveError if the
        archive confirmed nothing.
        """

    async def find(self, prediction_id: str) -> Document | None:
        """Return a prediction; None if it is unknown or erased. Raises ArchiveError."""

    async def close(self) -> None:
        """Close the connections."""

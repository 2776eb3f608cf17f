"""The interface of an archive, which stores predictions permanently: MongoDB, or a fake in a test.

ArchiveError             the archive did not confirm; a retry may succeed
└── ArchiveRefusedError  wrong address, missing permission or feature; a retry will not succeed
"""

from collections.abc import Sequence
from typing import Protocol

from serving.prediction_log.outbox import OutboxRow
from serving.prediction_log.records import Document


class ArchiveError(Exception):
    """The archive did not confirm; the message gives the reason and holds no secret.

    `state` is the same in a few words, without addresses, for /readyz, which needs no key.
    """

    def __init__(self, message: str, state: str = "does not answer") -> None:
        super().__init__(message)
        self.state = state


class ArchiveRefusedError(ArchiveError):
    """The archive's address is wrong or it cannot do what is needed; a retry will not succeed."""


class Archive(Protocol):
    """A permanent store for predictions, feedback and reviews."""

    async def prepare(self) -> None:
        """Create what writing needs, such as indexes. Raises ArchiveError."""

    async def ping(self) -> None:
        """Raise ArchiveError if the archive does not answer."""

    async def write(self, rows: Sequence[OutboxRow]) -> dict[int, str]:
        """Store rows in any order; return the reason for each refused row, by its `seq`.

        All other rows are then stored as safely as the archive can. Raises ArchiveError if the
        archive confirmed nothing.
        """

    async def find(self, prediction_id: str) -> Document | None:
        """Return a prediction; None if it is unknown or erased. Raises ArchiveError."""

    async def has_reviews(self, prediction_id: str) -> bool:
        """Return whether a prediction has reviews that are not erased. Raises ArchiveError."""

    async def close(self) -> None:
        """Close the connections."""

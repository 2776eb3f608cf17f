"""What is compared: columns that describe predictions without their texts, and the reference.

texts, scores  ->  Columns  ->  drift_reference.json, beside metrics.json in a bundle's folder
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from serving.bundle import LABELS, SPECIAL_TOKENS, Bundle, Scores
from serving.inference.language import detect_language

REFERENCE = "drift_reference.json"
MAX_REFERENCE_ROWS = 2_000
CATEGORIES = ("label", "language")
FROM_TEXT = ("characters", "unknown")
DIGITS = 4  # of a score


class DriftError(Exception):
    """Drift cannot be checked; the message says what is wanted."""


class Columns(BaseModel):
    """One value a row in each column; None where the texts were not there.

    hate, offensive, neither: the scores.
    characters: length of the text.
    unknown: share of the text's word pieces that the tokenizer does not know.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: list[str]
    hate: list[float]
    offensive: list[float]
    neither: list[float]
    language: list[str]
    characters: list[int] | None = None
    unknown: list[float] | None = None

    @model_validator(mode="after")
    def _equal_lengths(self) -> "Columns":
        lengths = {len(values) for values in self.present().values()}
        if len(lengths) > 1:
            raise ValueError("columns of different lengths")
        if unknown := set(self.label) - set(LABELS):
            raise ValueError(f"labels: got {sorted(unknown)}, wanted {', '.join(LABELS)}")
        return self

    def present(self) -> dict[str, list[int] | list[float] | list[str]]:
        """Return the columns that are there, by name."""
        return {name: values for name, values in dict(self).items() if values is not None}

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.label)


class Reference(BaseModel):
    """What the log is compared with: predictions of one bundle.

    version: of that bundle.
    origin: where the rows are from, in words.
    """

    model_config = ConfigDict(frozen=True)

    schema_version: Literal[1] = 1
    version: str
    origin: str
    columns: Columns

    def dumps(self) -> str:
        """Return the file's content, a line for each column."""
        head = self.model_dump(exclude={"columns"})
        columns = (
            f"  {json.dumps(name)}: {json.dumps(values, separators=(',', ':'))}"
            for name, values in self.columns.present().items()
        )
        lines = [f"{json.dumps(name)}: {json.dumps(value)}," for name, value in head.items()]
        return "\n".join(["{", *lines, '"columns": {', ",\n".join(columns), "}", "}"]) + "\n"


def read_reference(path: Path) -> Reference | None:
    """Return the reference in a file; None if there is no file.

    Raises:
        DriftError: the file is no reference.
    """
    try:
        return Reference.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValidationError) as error:
        reason = error.strerror if isinstance(error, OSError) else error.errors()[0]["msg"]
        raise DriftError(f"{path}: not a drift reference: {reason}") from None


def make_reference(bundle: Bundle, texts: Sequence[str], scores: Scores, origin: str) -> Reference:
    """Return the reference of texts that the bundle has scored.

    Of more than MAX_REFERENCE_ROWS texts those with the smallest SHA-256 are taken, in that order.
    """
    order = sorted(range(len(texts)), key=lambda i: digest(texts[i]))
    rows = order[:MAX_REFERENCE_ROWS]
    chosen, labels = [texts[i] for i in rows], scores.labels[rows]
    return Reference(
        version=bundle.manifest.version,
        origin=origin,
        columns=Columns(
            label=[LABELS[i] for i in bundle.decide(labels)],
            **{
                name: [round(float(score), DIGITS) for score in labels[:, i]]
                for i, name in enumerate(LABELS)
            },
            language=[detect_language(text) for text in chosen],
            characters=[len(text) for text in chosen],
            unknown=unknown_shares(bundle, chosen),
        ),
    )


def digest(value: str) -> bytes:
    """Return the SHA-256 of a text or an id, by which rows are chosen."""
    return hashlib.sha256(value.encode()).digest()


def unknown_shares(bundle: Bundle, texts: Sequence[str]) -> list[float]:
    """Return the share of each text's word pieces that are [UNK], of those that the model reads."""
    unknown = bundle.tokenizer.token_to_id("[UNK]")
    shares = []
    for encoding in bundle.encode(texts):
        pieces = len(encoding.ids) - SPECIAL_TOKENS * len(encoding.windows)
        shares.append(round(encoding.ids.count(unknown) / max(1, pieces), DIGITS))
    return shares

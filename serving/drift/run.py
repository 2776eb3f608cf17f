"""One check for drift: the log's window is compared with a reference, and the report is written.

settings, bundle  ->  Window, Reference  ->  DriftReport  ->  drift.json, drift.html
"""

import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from serving.bundle import LABELS, Bundle
from serving.drift.columns import (
    DIGITS,
    FROM_TEXT,
    MAX_REFERENCE_ROWS,
    REFERENCE,
    Columns,
    DriftError,
    Reference,
    digest,
    read_reference,
    unknown_shares,
)
from serving.drift.estimates import estimate, resolve
from serving.drift.log import Window, read_window
from serving.observability.drift import DriftReport
from serving.prediction_log.records import Document
from serving.settings import Settings

MIN_ROWS = 200  # of the log
MIN_REFERENCE_ROWS = 100
HTML, JSON = "drift.html", "drift.json"


@dataclass(frozen=True)
class Check:
    """What is to be checked.

    folder: of the bundle that the service has.
    days: length of the window, which ends now.
    out: folder of the report, and of a reference made of the log.
    """

    settings: Settings
    folder: Path
    days: int
    out: Path

    @property
    def since(self) -> datetime:
        """Beginning of the window."""
        return datetime.now(UTC) - timedelta(days=self.days)


def check(asked: Check) -> DriftReport:
    """Compare the log with the reference and write the report.

    Raises:
        DriftError: there are too few rows, no reference, or no log that can be read.
        BundleError: the bundle cannot be loaded.
        ArchiveRefusedError: MongoDB denies access.
    """
    from serving.drift.compare import compare

    bundle = Bundle.load(asked.folder)
    reference = find_reference(asked, bundle.manifest.version)
    window = _window(asked, bundle)
    current = log_columns(window.rows, bundle)
    columns, page = compare(current, reference.columns)
    drifted = sum(column.drifted for column in columns)
    compared = {column.name for column in columns}
    report = DriftReport(
        checked=datetime.now(UTC).timestamp(),
        days=asked.days,
        model_version=bundle.manifest.version,
        reference=reference.origin,
        reference_rows=reference.columns.rows,
        rows=current.rows,
        found=window.found,
        others=window.others,
        drift=drifted > 0,
        share=drifted / len(columns),
        columns=columns,
        left_out=[name for name in FROM_TEXT if name not in compared],
        estimates=estimate(resolve(window.reviews, bundle.manifest.version)),
    )
    write(asked.out / HTML, page)
    write(asked.out / JSON, report.model_dump_json(indent=2) + "\n")
    return report


def set_reference(asked: Check) -> Reference:
    """Make the window the reference that is compared with from now on; DriftError as `check`."""
    bundle = Bundle.load(asked.folder)
    window = _window(asked, bundle)
    rows = sorted(window.rows, key=lambda row: digest(row["_id"]))[:MAX_REFERENCE_ROWS]
    start, end = (f"{day:%Y-%m-%d}" for day in (asked.since, datetime.now(UTC)))
    reference = Reference(
        version=bundle.manifest.version,
        origin=f"the log from {start} to {end}",
        columns=log_columns(rows, bundle),
    )
    write(asked.out / REFERENCE, reference.dumps())
    return reference


def find_reference(asked: Check, version: str) -> Reference:
    """Return the reference in `out` if it is about this bundle, else the bundle's own.

    Raises:
        DriftError: there is none, or it has too few rows.
    """
    for folder in (asked.out, asked.folder):
        reference = read_reference(folder / REFERENCE)
        if reference and reference.version == version:
            if reference.columns.rows < MIN_REFERENCE_ROWS:
                raise DriftError(
                    f"{folder / REFERENCE}: got {reference.columns.rows} rows, wanted "
                    f"{MIN_REFERENCE_ROWS} or more; `tweet-tagger drift --set-reference` makes one "
                    "of the log"
                )
            return reference
    raise DriftError(
        f"{asked.folder}: this bundle has no {REFERENCE}; `make train` makes one with a model, "
        "`tweet-tagger drift --set-reference` makes one of the log"
    )


def _window(asked: Check, bundle: Bundle) -> Window:
    window = read_window(asked.settings, bundle.manifest.version, asked.since)
    if len(window.rows) < MIN_ROWS:
        raise DriftError(
            f"the log of the last {_days(asked.days)}: got {len(window.rows)} predictions of model "
            f"{bundle.manifest.version} and {window.others:,} of others, wanted {MIN_ROWS} or more "
            "of that model; take more --days"
        )
    return window


def _days(days: int) -> str:
    return "day" if days == 1 else f"{days} days"


def log_columns(rows: list[Document], bundle: Bundle) -> Columns:
    """Return the columns of the log's rows; those from texts only if the log has enough texts.

    With some texts missing (the setting was changed, or a text was not stored), all columns are
    those of the rows that have one.
    """
    with_text = [row for row in rows if row.get("text") is not None]
    has_texts = len(with_text) >= MIN_ROWS
    chosen = with_text if has_texts else rows
    texts = [str(row["text"]) for row in with_text]
    return Columns(
        label=[row["label"] for row in chosen],
        **{name: [round(row["scores"][name], DIGITS) for row in chosen] for name in LABELS},
        language=[row.get("language") or "en" for row in chosen],
        characters=[len(text) for text in texts] if has_texts else None,
        unknown=unknown_shares(bundle, texts) if has_texts else None,
    )


def write(path: Path, content: str) -> None:
    """Replace a file at once: the service may read it at any time. Raises DriftError."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            scratch.write_text(content, encoding="utf-8")
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)
    except OSError as error:
        raise DriftError(f"--out: {path} cannot be written: {error.strerror}") from None

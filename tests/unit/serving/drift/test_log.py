"""Which rows of the log are read."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from serving.drift.columns import DriftError
from serving.drift.log import DIGITS, MAX_ROWS, Window, endings, read_window
from serving.ids import new_ids
from serving.settings import Settings
from tests.support.drift import fill_outbox, fill_reviews
from tests.support.prediction_log import prediction

NOW = datetime.now(UTC)
WEEK = NOW - timedelta(days=7)


def window(path: Path, version: str = "model") -> Window:
    return read_window(Settings(outbox=path), version, WEEK)


def test_only_the_window_s_rows_of_the_model_are_read_and_others_are_counted(
    tmp_path: Path,
) -> None:
    records = [
        prediction(ts=NOW, text="now"),
        prediction(ts=NOW - timedelta(days=6), text="this week"),
        prediction(ts=NOW - timedelta(days=8), text="before"),
        prediction(ts=NOW, model_version="other"),
    ]
    fill_outbox(tmp_path / "outbox.db", records)
    found = window(tmp_path / "outbox.db")
    assert [row["text"] for row in found.rows] == ["now", "this week"]
    assert found.rows[0]["scores"] == records[0].scores
    assert (found.rows[0]["label"], found.rows[0]["language"]) == ("neither", "en")
    assert (found.found, found.others, found.reviews) == (2, 1, [])


def test_texts_that_are_not_stored_are_none(tmp_path: Path) -> None:
    fill_outbox(tmp_path / "outbox.db", [prediction(ts=NOW)], store_text="hash")
    assert [row["text"] for row in window(tmp_path / "outbox.db").rows] == [None]


def test_reviews_made_in_the_window_are_read_with_what_was_predicted(tmp_path: Path) -> None:
    fill_outbox(tmp_path / "outbox.db", [prediction(ts=NOW)])
    fill_reviews(tmp_path / "outbox.db", [("a", "hate", "neither", NOW)])
    fill_reviews(tmp_path / "outbox.db", [("b", "hate", "neither", NOW - timedelta(days=8))])
    (found,) = window(tmp_path / "outbox.db").reviews
    assert (found["prediction_id"], found["label"], found["predicted"]["label"]) == (
        "a",
        "hate",
        "neither",
    )


def test_of_a_long_log_about_max_rows_are_chosen_uniformly_also_within_a_request() -> None:
    assert endings(MAX_ROWS) is None
    chosen = endings(10 * MAX_ROWS)
    assert chosen is not None
    assert len(chosen) / 16**DIGITS == pytest.approx(0.1, abs=0.001)
    taken = set(chosen)
    shares = [sum(id_[-DIGITS:] in taken for id_ in new_ids(256)) / 256 for _ in range(200)]
    assert sum(shares) / 200 == pytest.approx(0.1, abs=0.01)
    # Ids of one request count up; by their value all of them, or none, would be taken.
    assert max(shares) < 0.25
    assert Counter(shares)[0.0] == 0


def test_a_sample_of_the_outbox_has_the_rows_with_the_chosen_endings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [prediction(ts=NOW) for _ in range(600)]
    fill_outbox(tmp_path / "outbox.db", records)
    monkeypatch.setattr("serving.drift.log.MAX_ROWS", 100)
    chosen = set(endings(600) or ())
    found = window(tmp_path / "outbox.db")
    assert found.found == 600
    assert {row["_id"] for row in found.rows} == {
        record.id for record in records if record.id[-DIGITS:] in chosen
    }
    assert 50 < len(found.rows) < 160
    assert window(tmp_path / "outbox.db") == found


def test_an_outbox_that_is_missing_or_no_database_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DriftError, match="which is no file; wanted the outbox of a service"):
        window(tmp_path / "none.db")
    other = tmp_path / "other.db"
    other.write_text("no database, and long enough to be read as one" * 10)
    with pytest.raises(DriftError, match="cannot be read: file is not a database"):
        window(other)

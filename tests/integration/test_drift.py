"""`tweet-tagger drift` on logs like the reference and on others, and what the service shows."""

import json
import os
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pymongo.database import Database

from serving import cli
from serving.drift.columns import REFERENCE, Reference, read_reference
from serving.drift.run import MIN_ROWS
from serving.observability.drift import DriftReport
from serving.prediction_log.records import timestamp
from tests.conftest import ROOT
from tests.support.drift import drawn_from, fill_outbox, fill_reviews, review
from tests.support.mongodb import free_port
from tests.support.prediction_log import prediction
from tests.support.service import Served, without_settings

SHIPPED = ROOT / "models" / "release"
ROWS = 5_000
NOW = datetime.now(UTC)


class Ended(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Ended]


@pytest.fixture(scope="module")
def reference() -> Reference:
    found = read_reference(SHIPPED / REFERENCE)
    assert found
    return found


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command on an outbox of this test's own; `settings` are without prefix."""

    def run(*arguments: str, **settings: str) -> Ended:
        for name in os.environ.keys() - without_settings().keys():
            monkeypatch.delenv(name)
        defaults = {
            "BUNDLE": str(SHIPPED),
            "OUTBOX": str(tmp_path / "outbox.db"),
            "DRIFT_REPORT": str(tmp_path / "out" / "drift.json"),
        }
        for name, value in (defaults | settings).items():
            monkeypatch.setenv(f"TAGGER_{name}", value)
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main(["drift", *arguments])
        return Ended(int(ended.value.code or 0), *capsys.readouterr())

    return run


def written(folder: Path) -> DriftReport:
    return DriftReport.model_validate_json((folder / "drift.json").read_bytes())


def drifted(report: DriftReport) -> set[str]:
    return {column.name for column in report.columns if column.drifted}


@pytest.mark.parametrize(
    ("changes", "code", "columns"),
    [
        ({}, 0, set()),
        ({"hate": 2.0}, 3, {"label", "hate"}),
        ({"longer": 1.5}, 3, {"characters"}),
    ],
    ids=["like the reference", "twice the share of hate", "longer texts"],
)
def test_the_exit_status_says_whether_a_log_of_5000_rows_drifted(
    run: Run,
    reference: Reference,
    tmp_path: Path,
    changes: dict[str, float],
    code: int,
    columns: set[str],
) -> None:
    fill_outbox(tmp_path / "outbox.db", drawn_from(reference, ROWS, seed=1, **changes))
    fill_outbox(tmp_path / "outbox.db", [prediction(ts=NOW) for _ in range(3)])
    started = time.perf_counter()
    ended = run()
    print(f"{ROWS} rows: {time.perf_counter() - started:.1f} s")
    assert ended.code == code, ended
    report = written(tmp_path / "out")
    assert (report.rows, report.found, report.others) == (ROWS, ROWS, 3)
    assert report.drift is bool(code)
    assert report.share == pytest.approx(len(columns) / 7)
    assert drifted(report) == columns
    assert report.model_version == reference.version
    assert "3 of other models are left out" in ended.out
    page = (tmp_path / "out" / "drift.html").read_text()
    assert "<html" in page
    assert "characters" in page
    assert "word word" not in page


def test_without_texts_their_columns_are_left_out_and_named(
    run: Run, reference: Reference, tmp_path: Path
) -> None:
    path = tmp_path / "outbox.db"
    fill_outbox(path, drawn_from(reference, 800, seed=2), store_text="hash")
    ended = run("--out", str(tmp_path / "here"))
    assert ended.code == 0, ended
    assert "left out: characters, unknown" in ended.out
    report = written(tmp_path / "here")
    assert report.left_out == ["characters", "unknown"]
    assert len(report.columns) == 5


def test_random_reviews_give_estimates_and_the_service_shows_them(
    run: Run, reference: Reference, tmp_path: Path
) -> None:
    path = tmp_path / "outbox.db"
    fill_outbox(path, drawn_from(reference, 800, seed=3))
    rows = [(f"right {i}", "offensive", "offensive", NOW) for i in range(30)]
    rows += [(f"wrong {i}", "neither", "offensive", NOW) for i in range(10)]
    fill_reviews(path, [*rows, ("unsure", "unsure", "hate", NOW)], version=reference.version)
    fill_reviews(path, [("of another model", "hate", "hate", NOW)], version="other")
    ended = run()
    assert ended.code == 0, ended
    assert "40 random reviews" in ended.out
    assert "(1 unsure, 0 skipped, 0 ties are not used)" in ended.out
    found = written(tmp_path / "out").estimates.labels
    assert found["offensive"].precision.value == found["offensive"].prevalence.value == 0.75
    assert found["offensive"].recall.value == 1
    assert found["neither"].precision.value is None
    (hate,) = (
        line for line in ended.out.splitlines() if line.startswith("hate  ") and "un" in line
    )
    assert hate.split()[1:4] == ["unknown", "unknown", "unknown"]
    (tmp_path / "served").mkdir()
    report = str(tmp_path / "out" / "drift.json")
    service = Served(SHIPPED, tmp_path / "served", DRIFT_REPORT=report, WORKERS="2")
    shown = service.http.get("/metrics").text
    service.stop()
    assert "tagger_drift_detected 0.0" in shown
    assert 'tagger_estimated_precision{bound="value",label="offensive"} 0.75' in shown
    assert "tagger_estimate_reviews 40.0" in shown


def test_the_log_itself_can_become_the_reference(
    run: Run, reference: Reference, tmp_path: Path
) -> None:
    """A service whose traffic is unlike the test has drift for ever otherwise."""
    path = tmp_path / "outbox.db"
    fill_outbox(path, drawn_from(reference, 1500, seed=4, longer=2))
    assert run().code == 3
    ended = run("--set-reference")
    assert ended.code == 0, ended
    assert ended.out.startswith("1,500 rows of the log from ")
    assert "word" not in (tmp_path / "out" / REFERENCE).read_text()
    ended = run()
    assert ended.code == 0, ended
    assert written(tmp_path / "out").reference.startswith("the log from ")
    # It is about this model; with another one the bundle's own counts again.
    other = json.loads((tmp_path / "out" / REFERENCE).read_text()) | {"version": "other"}
    (tmp_path / "out" / REFERENCE).write_text(json.dumps(other))
    assert run().code == 3


def test_what_cannot_be_checked_is_one_sentence_and_exit_2(
    run: Run, reference: Reference, tmp_path: Path
) -> None:
    path = tmp_path / "outbox.db"

    def refused(reason: str, *arguments: str, **settings: str) -> None:
        ended = run(*arguments, **settings)
        assert ended.code == 2
        assert ended.out == ""
        assert ended.err.count("\n") == 1
        assert reason in ended.err
        assert not (tmp_path / "out").exists()

    refused("which is no file; wanted the outbox of a service")
    fill_outbox(path, drawn_from(reference, MIN_ROWS - 1, seed=5))
    refused(f"got {MIN_ROWS - 1} predictions of model {reference.version} and 0 of others, "
            f"wanted {MIN_ROWS} or more")  # fmt: skip
    fill_outbox(path, drawn_from(reference, 1, seed=6))
    bare = tmp_path / "bundle"
    shutil.copytree(SHIPPED, bare, ignore=shutil.ignore_patterns(REFERENCE))
    refused("has no drift_reference.json; `make train` makes one", BUNDLE=str(bare))
    (bare / REFERENCE).write_text("{")
    refused("not a drift reference", BUNDLE=str(bare))
    few = reference.columns.model_copy(
        update={name: values[:50] for name, values in reference.columns.present().items()}
    )
    (bare / REFERENCE).write_text(reference.model_copy(update={"columns": few}).dumps())
    refused("got 50 rows, wanted 100 or more", BUNDLE=str(bare))
    refused("'--days': 0 is not in the range", "--days", "0")
    refused("'--days': 'week' is not a valid integer", "--days", "week")
    refused("does not answer", MONGODB_URI=f"mongodb://127.0.0.1:{free_port()}/")
    (tmp_path / "file").write_text("")
    refused("cannot be written", "--out", str(tmp_path / "file" / "out"))


def test_without_the_extra_the_command_says_what_to_install(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "_missing", lambda modules: next(iter(modules), None))
    ended = run()
    assert ended.code == 2
    assert ended.err == (
        "evidently is not installed; wanted: pip install 'toxic-tweet-tagger[drift]'\n"
    )


def test_the_log_in_mongodb_is_read_as_the_outbox_is(
    run: Run,
    reference: Reference,
    uri: str,
    database: Database[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stored(**changes: float) -> list[dict[str, Any]]:
        records = drawn_from(reference, 600, seed=7, **changes)
        return [record.document("full") | {"ts": NOW} for record in records]

    reviewed = review("a", "hate", "hate", NOW, reference.version)
    times = {name: timestamp(reviewed[name]) for name in ("ts", "prediction_ts")}
    database.predictions.insert_many(stored())
    database.predictions.insert_one({"_id": "gone", "ts": NOW, "erased": True})
    database.reviews.insert_one(reviewed | times)
    database.reviews.insert_one({"_id": "gone", "ts": NOW, "erased": True})
    ended = run(MONGODB_URI=uri)
    assert ended.code == 0, ended
    report = written(tmp_path / "out")
    assert (report.rows, report.others, report.estimates.reviews) == (600, 0, 1)
    database.predictions.insert_many(stored(longer=3))
    monkeypatch.setattr("serving.drift.log.MAX_ROWS", 600)
    ended = run(MONGODB_URI=uri)
    assert ended.code == 3, ended
    report = written(tmp_path / "out")
    assert report.found == 1200
    assert 450 < report.rows < 750
    assert drifted(report) == {"characters"}

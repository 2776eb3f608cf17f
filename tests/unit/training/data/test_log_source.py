"""A prediction log in the pipeline: ingest reads it, prepare uses its rows."""

import asyncio
import functools
import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from serving.prediction_log.log import PredictionLog
from serving.prediction_log.outbox import SCHEMA_VERSION
from tests.conftest import write_csv
from tests.support.labelled_log import Said, add_reviews, by_clients, write, write_outbox
from tests.support.prediction_log import with_log
from training.config import PrepareParams, load_profile, load_sources
from training.data import log_source, prepare
from training.data.ingest import ingest
from training.data.log_source import OUTBOX_SCHEMA, read_log
from training.data.normalize import build_normalizer
from training.data.sources import read_source
from training.errors import ConfigError, DataError
from training.partial_labels import LEARNED_ATTRIBUTES
from training.release import promote

NORMALIZER = functools.cache(build_normalizer)
PARAMS = PrepareParams(val_fraction=0.2, test_fraction=0.2, near_duplicate=0.8, max_rows=0)
LABELS = {name: [name] for name in ("hate", "offensive", "neither")}
CORPUS = [
    (f"text number {i} alpha{i} beta{i} gamma{i} delta{i}", ("hate", "offensive", "neither")[i % 3])
    for i in range(300)
]
SAID = [
    *(Said(f"a reviewed grumbler {i} with words{i}", "hate", reviewer="ann") for i in range(40)),
    Said("they sent a glorp", "offensive", reviewer="ann"),
    Said("they sent a  GLORP", "hate", reviewer="bob"),
    Said("They sent a glorp", "hate", reviewer="cy"),
    *by_clients("what a zindle", "hate+offensive", "a", "b", "10.0.0.1", THREAT=0.75),
    *by_clients("too few of them", "hate", "10.0.0.1", "10.0.0.2"),
]


@pytest.fixture(autouse=True)
def one_normalizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Build it once: it takes a second, and every stage builds its own."""
    for module in (log_source, prepare):
        monkeypatch.setattr(module, "build_normalizer", NORMALIZER)


@pytest.fixture
def outbox(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with a corpus and a log as sources, and the place of the log."""
    write_csv(Path("data/own/own.csv"), CORPUS)
    monkeypatch.setenv("DATA_DIR", "data/own")
    configure(uri="log/outbox.db", max_client_share=1)
    return Path("log/outbox.db")


def configure(*, bundled: bool = False, **log: object) -> None:
    own = {"path": "own.csv", "labels": LABELS}
    sample = {"path": "data/sample/tweets.csv", "labels": LABELS, "max_rows": 200}
    sources = {"own": own} | ({"sample": sample} if bundled else {})
    sources["reviewed"] = {"kind": "log", **log}
    text = yaml.safe_dump(sources, sort_keys=False)
    Path("configs/sources.yaml").write_text(text, encoding="utf-8")


def run(profile: str = "full") -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
    ingest(profile, load_sources())
    missing = load_profile().missing
    sources = {name: source for name, source in load_sources().items() if name not in missing}
    return prepare.prepare(PARAMS, sources)


def reviewed(splits: dict[str, pd.DataFrame]) -> pd.DataFrame:
    rows = pd.concat([frame.assign(split=split) for split, frame in splits.items()])
    return rows[rows["source"] == "reviewed"].set_index("text")


def test_the_table_in_data_raw_has_labels_and_votes_but_nobody_who_gave_them(outbox: Path) -> None:
    write_outbox(outbox, SAID)
    ingest("full", load_sources())
    table = pd.read_parquet("data/raw/reviewed.parquet").set_index("text")
    votes = ["hate_votes", "offensive_votes", "neither_votes"]
    assert [*table.columns] == ["label", *votes, *LEARNED_ATTRIBUTES]
    assert len(table) == 42
    assert table.loc["what a zindle", "label"] == "hate+offensive"
    assert table.loc["what a zindle", "THREAT"] == 0.75
    (glorp,) = (text for text in table.index if "glorp" in text.lower())
    assert table.loc[glorp, ["label", *votes]].tolist() == ["hate", 2, 1, 0]
    rows = read_source("reviewed", load_sources()["reviewed"]).set_index("text")
    assert rows.loc["what a zindle", "labels"] == ["hate", "offensive"]
    assert rows.loc[glorp, "votes"] == [2, 1, 0]


@pytest.mark.parametrize("profile", ["full", "quick", "sample"])
def test_every_profile_takes_the_log(outbox: Path, profile: str) -> None:
    write_outbox(outbox, SAID)
    configure(bundled=True, uri="log/outbox.db", max_client_share=1)
    splits, counts = run(profile)
    assert len(reviewed(splits)) == 42 == counts["read"]["reviewed"]
    assert load_profile().data == ("sample" if profile == "sample" else "sources")
    assert load_profile().missing == (["own"] if profile == "sample" else [])
    entered = counts["logs"]["reviewed"]
    assert entered["texts"] == {"by_reviewers": 41, "by_clients": 1}
    assert entered["feedback"]["refused"] == {"repeated": 1, "too_few_clients": 1}
    assert sum(entered["rows"].values()) == 42


def test_prepare_prints_what_entered_and_why_not(
    outbox: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_outbox(outbox, SAID)
    ingest("full", load_sources())
    prepare.main()
    printed = capsys.readouterr().out
    assert "log reviewed: 41 texts by reviewers, 1 by clients\n" in printed
    assert "  feedback 5 read, 3 agreed, 0 confirmed by reviewers\n" in printed
    assert "         1 too few independent clients agree\n" in printed
    assert json.loads(Path("reports/prepare.json").read_text())["logs"]["reviewed"]["rows"]


def test_an_empty_log_contributes_nothing_and_is_named(
    outbox: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_outbox(outbox, [])
    ingest("full", load_sources())
    assert load_profile().missing == []
    prepare.main()
    assert "log reviewed: 0 texts by reviewers, 0 by clients; it contributes nothing" in (
        capsys.readouterr().out
    )


def test_a_text_that_was_erased_is_gone_after_the_next_run(outbox: Path) -> None:
    ids = write_outbox(outbox, SAID)
    ingest("full", load_sources())
    prepare.main()
    files = [Path("data/raw/reviewed.parquet"), *Path("data/processed").iterdir()]
    assert "words7" in texts(files)
    assert "zindle" in texts(files)

    async def erase(log: PredictionLog) -> None:
        for i, one in enumerate(SAID):
            if "zindle" in one.text:
                assert await log.delete(ids[i])
        assert await log.delete(ids[7])

    with_log(outbox, erase)
    ingest("full", load_sources())
    prepare.main()
    assert "words7" not in texts(files)
    assert "zindle" not in texts(files)
    assert "words8" in texts(files)


def texts(files: list[Path]) -> set[str]:
    return {
        word for path in files for text in pd.read_parquet(path)["text"] for word in text.split()
    }


def test_a_poisoner_with_500_wrong_labels_changes_no_byte(outbox: Path) -> None:
    def made() -> dict[str, bytes]:
        ingest("full", load_sources())
        prepare.main()
        files = [Path("data/raw/reviewed.parquet"), *Path("data/processed").iterdir()]
        return {str(path): path.read_bytes() for path in files}

    write_outbox(outbox, SAID)
    before = made()
    texts = [one.text for one in SAID] + [CORPUS[i][0] for i in range(60)]
    poison = [
        Said(texts[i % len(texts)], "neither", f"10.6.6.{i % 250}", attributes={"THREAT": 0.0})
        for i in range(500)
    ]

    async def add(log: PredictionLog) -> None:
        await write(log, poison)

    with_log(outbox, add)
    assert made() == before
    report = json.loads(Path("reports/prepare.json").read_text())["logs"]["reviewed"]
    assert report["feedback"]["read"] == 505
    refused = report["feedback"]["refused"]
    assert (
        refused["repeated"]
        + refused["contradicts_reviewers"]
        + refused["outvoted"]
        + (refused["too_few_clients"])
        == 502
    )


def test_a_log_changes_no_row_of_another_source(outbox: Path) -> None:
    said = [
        *SAID,
        *(Said(text, "neither", reviewer="ann") for text, _ in CORPUS[:150]),  # the same
        *(Said(f"{text} more", "neither", reviewer="ann") for text, _ in CORPUS[150:]),  # nearly
    ]
    write_outbox(outbox, [])
    without, _ = run()
    outbox.unlink()
    write_outbox(outbox, said)
    splits, counts = run()
    for split, frame in without.items():
        others = splits[split][splits[split]["source"] != "reviewed"]
        pd.testing.assert_frame_equal(
            others.reset_index(drop=True), frame.reset_index(drop=True), obj=split
        )
    assert len(without["test"]) > 30
    assert len(reviewed(splits)) == 42
    assert counts["logs"]["reviewed"]["rows"]["in another source too"] == 150
    assert counts["logs"]["reviewed"]["rows"]["nearly those of an earlier row"] == 150


def test_rows_of_a_log_are_in_train_and_with_a_single_label_in_validation(outbox: Path) -> None:
    clients = ("a", "b", "c")
    vague = [
        said
        for i in range(60)
        for said in by_clients(f"vague one {i} about things{i}", "hate+offensive", *clients)
    ]
    write_outbox(outbox, [*SAID, *vague])
    splits, _ = run()
    rows = reviewed(splits)
    assert set(rows["split"]) == {"train", "val"}
    assert set(rows.loc[rows["labels"].str.len() == 2, "split"]) == {"train"}
    configure(uri="log/outbox.db", max_client_share=1, use="train")
    splits, _ = run()
    assert set(reviewed(splits)["split"]) == {"train"}


def test_an_outbox_is_read_while_the_service_writes_to_it(outbox: Path) -> None:
    async def test(log: PredictionLog) -> None:
        ids = await write(log, SAID)
        add_reviews(outbox, ids, SAID)
        busy = asyncio.create_task(write(log, SAID[:20]))
        documents = await asyncio.to_thread(read_log, str(outbox))
        await busy
        assert len(documents.reviews) == 43
        assert len(documents.feedback) == 5
        assert await log.get(ids[0])

    with_log(outbox, test)


def test_reading_an_outbox_changes_no_byte_of_it(outbox: Path) -> None:
    write_outbox(outbox, SAID)
    before = outbox.read_bytes()
    ingest("full", load_sources())
    assert outbox.read_bytes() == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_outbox_is_read_without_leave_to_write_beside_it(outbox: Path) -> None:
    write_outbox(outbox, SAID)
    outbox.parent.chmod(0o555)
    try:
        assert len(read_log(str(outbox)).reviews) == 43
    finally:
        outbox.parent.chmod(0o755)


def test_an_older_file_has_no_reviews(outbox: Path) -> None:
    write_outbox(outbox, SAID)
    with closing(sqlite3.connect(outbox)) as db, db:
        db.execute("DROP TABLE review")
        db.execute("PRAGMA user_version = 1")
    documents = read_log(str(outbox))
    assert not documents.reviews
    assert len(documents.feedback) == 5


def test_this_version_reads_the_outbox_that_this_version_writes() -> None:
    assert SCHEMA_VERSION <= OUTBOX_SCHEMA


def test_only_the_newest_are_read_and_the_others_are_counted(
    outbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_outbox(outbox, SAID)
    monkeypatch.setattr(log_source, "MAX_DOCUMENTS", 4)
    _, counts = run()
    assert counts["logs"]["reviewed"]["reviews"]["refused"] == {"not_read": 39}
    assert counts["logs"]["reviewed"]["feedback"]["refused"]["not_read"] == 1


def test_texts_that_are_stored_as_a_hash_are_refused_and_counted(outbox: Path) -> None:
    write_outbox(outbox, by_clients("what a zindle", "hate", "a", "b", "c"), text="hash")
    splits, counts = run()
    assert len(reviewed(splits)) == 0
    assert counts["logs"]["reviewed"]["feedback"]["refused"] == {"text_not_stored": 3}


def test_attributes_that_nobody_knows_are_unknown(outbox: Path) -> None:
    write_outbox(outbox, SAID)
    splits, _ = run()
    known = np.stack(reviewed(splits).sort_index()["attributes"].to_list())
    assert (~np.isnan(known)).sum() == 1


def newer(path: Path) -> None:
    write_outbox(path, [])
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version = {OUTBOX_SCHEMA + 1}")


def other_database(path: Path) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE tweets (id)")


def other_file(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("text,label\n" * 100)


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (
            lambda _: None,
            "log/outbox.db: got no such file, wanted the file of a service's outbox",
        ),
        (lambda path: path.mkdir(parents=True), "got no such file, wanted the file of a service's"),
        (other_file, "log/outbox.db: got file is not a database, wanted the file of a service's"),
        (other_database, "got a database without the table log, wanted the file of a service's"),
        (newer, f"got schema {OUTBOX_SCHEMA + 1}, of a newer version, wanted {OUTBOX_SCHEMA} or"),
    ],
)
def test_a_file_that_is_no_outbox_is_one_sentence(outbox: Path, make: Any, problem: str) -> None:
    make(outbox)
    with pytest.raises(DataError) as caught:
        ingest("full", load_sources())
    message = str(caught.value)
    assert message.startswith("configs/sources.yaml: reviewed: uri: log/outbox.db: ")
    assert problem in message
    assert "\n" not in message
    assert not Path("data/profile.yaml").exists()


def test_the_address_is_in_an_environment_variable(
    outbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(uri="${REVIEW_LOG}")
    problem = "reviewed: uri: got no environment variable REVIEW_LOG, wanted mongodb://"
    with pytest.raises(DataError, match=problem):
        ingest("full", load_sources())
    write_outbox(outbox, SAID)
    monkeypatch.setenv("REVIEW_LOG", str(outbox))
    ingest("full", load_sources())
    assert len(pd.read_parquet("data/raw/reviewed.parquet")) > 40


@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        (
            "mongodb://bob:sesame@127.0.0.1:9/",
            "does not answer: got .*, wanted a serv",
        ),
        (
            "mongodb://bob:ses@me/x@localhost/",
            "got a MongoDB address that is malformed, wanted mon",
        ),
        (
            "mongodb://localhost:port/",
            r"address that is malformed \(Port .*\), wanted mongodb://",
        ),
    ],
)
def test_an_unusable_mongodb_is_one_sentence_without_the_password(
    outbox: Path, monkeypatch: pytest.MonkeyPatch, uri: str, problem: str
) -> None:
    monkeypatch.setattr(log_source, "SERVER_S", 0.2)
    monkeypatch.setenv("MONGODB_URI", uri)
    configure(uri="${MONGODB_URI}")
    with pytest.raises(DataError, match=problem) as caught:
        ingest("full", load_sources())
    message = str(caught.value)
    assert message.startswith("configs/sources.yaml: reviewed: uri: ")
    assert "ses" not in message.replace("addresses", "")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("log", "problem"),
    [
        ({}, "reviewed: uri: missing; wanted mongodb://host"),
        ({"uri": "mongodb://bob:sesame@db/x"}, "reviewed: uri: it has a password; wanted ${NAME}"),
        ({"uri": "mongodb://bob:ses@me@db/x"}, "reviewed: uri: it has a password; wanted ${NAME}"),
        ({"uri": "mongodb+srv://bob:ses/me@db/x"}, "it has a password; wanted ${NAME}"),
        ({"uri": "mongodb://bob:${PASSWORD}@db/x"}, "it has a password; wanted ${NAME}"),
        ({"uri": "postgres://db/x"}, "reviewed: uri: got another form, wanted mongodb://host"),
        ({"uri": "log/${NAME}.db"}, "reviewed: uri: got another form, wanted mongodb://host"),
        ({"uri": "a.db", "path": "b.csv"}, "reviewed: path: a log has none"),
        ({"uri": "a.db", "twins": True}, "reviewed: twins: a log has none"),
        ({"uri": "a.db", "use": "external"}, "use: got 'external', wanted split or train"),
        ({"uri": "a.db", "max_client_share": 0}, "reviewed.max_client_share: got 0;"),
        ({"uri": "a.db", "agreeing_clients": 0}, "reviewed.agreeing_clients: got 0;"),
    ],
)
def test_a_wrong_entry_is_one_sentence_without_the_password(
    outbox: Path, log: dict[str, object], problem: str
) -> None:
    configure(**log)
    with pytest.raises(ConfigError) as caught:
        load_sources()
    assert problem in str(caught.value)
    assert "ses" not in str(caught.value)


@pytest.mark.parametrize("uri", ["mongodb://db1:27017,db2:27017/tweets", "/var/log/outbox.db"])
def test_an_address_without_a_password_may_be_in_the_file(outbox: Path, uri: str) -> None:
    configure(uri=uri)
    source = load_sources()["reviewed"]
    assert (source.uri, source.agreeing_clients, source.max_client_share) == (uri, 3, 0.2)
    assert not source.thresholds


def test_only_a_log_has_an_address(checkout: Path) -> None:
    sources = {"own": {"path": "own.csv", "labels": LABELS, "uri": "log/outbox.db"}}
    Path("configs/sources.yaml").write_text(yaml.safe_dump(sources))
    with pytest.raises(ConfigError, match="own: uri: only a source with kind: log has one"):
        load_sources()


def test_a_log_is_never_the_reference(checkout: Path) -> None:
    log = {"kind": "log", "uri": "log/outbox.db"}
    own = {"path": "own.csv", "labels": LABELS}
    for sources, problem in [
        ({"reviewed": log, "own": own}, "reviewed: a log comes after all other sources; move it"),
        ({"reviewed": log}, "no source has use: split"),
    ]:
        Path("configs/sources.yaml").write_text(yaml.safe_dump(sources, sort_keys=False))
        with pytest.raises(ConfigError, match=problem):
            load_sources()


def test_no_release_has_a_text_of_the_log(outbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_outbox(outbox, SAID)
    ingest("full", load_sources())
    prepare.main()
    Path("models").mkdir()
    added = {}

    def add(version: str, files: dict[str, Path]) -> None:
        added[version] = pd.read_parquet(files["reference.parquet"])

    monkeypatch.setattr(promote.releases, "add", add)
    promote._add_release("0123")
    assert set(added["0123"]["source"]) == {"own"}
    assert "reviewed" in set(pd.read_parquet("data/processed/train.parquet")["source"])

import hashlib
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.conftest import write_csv
from training.config import PrepareParams, Source, load_sources
from training.data.augment import remove_punctuation
from training.data.dedup import combine_attributes, near_duplicates, resolve_labels
from training.data.ingest import ingest
from training.data.prepare import prepare
from training.data.sources import read_source
from training.errors import DataError
from training.groups import fill_groups

PARAMS = PrepareParams(val_fraction=0.2, test_fraction=0.2, near_duplicate=0.8, max_rows=0)
LABELS = {name: [name] for name in ("hate", "offensive", "neither")}
CSV = Source(path="x.csv", labels=LABELS)
BINARY = Source(path="x.csv", labels={"hate": ["hate"], "not": ["offensive", "neither"]})


def raw(name: str, rows: list[tuple[str, str]]) -> None:
    write_csv(Path("data/raw") / f"{name}.csv", rows)


def ids(frame: pd.DataFrame) -> set[str]:
    return set(frame["id"])


def test_retweets_are_one_row(checkout: Path) -> None:
    raw(
        "a",
        [
            ("What a day", "neither"),
            ("RT @x: what a day!! https://t.co/1", "neither"),
            ("Other", "hate"),
        ],
    )
    splits, counts = prepare(PARAMS, {"a": CSV})
    assert sum(map(len, splits.values())) == 2
    assert counts["duplicates"] == 1


def test_votes_for_another_label_than_the_rows_are_dropped(checkout: Path) -> None:
    source = CSV.model_copy(
        update={"votes": {"hate": ["h", "hate_count"], "offensive": ["o"], "neither": ["n"]}}
    )
    Path("data/raw").mkdir(parents=True)
    Path("data/raw/a.csv").write_text(
        "text,label,hate_count,o,n\n"
        "first of them,hate,2,1,0\n"
        "the second one,neither,1,2,0\n"  # for another label
        "here comes a third,offensive,0,3,3\n"
    )
    raw("b", [("somebody else wrote this", "hate")])
    splits, _ = prepare(PARAMS, {"a": source, "b": CSV})
    kept = pd.concat(splits.values()).set_index("text")["votes"]
    assert kept.map(list).to_dict() == {
        "first of them": [2, 1, 0],
        "the second one": [0, 0, 0],
        "here comes a third": [0, 3, 3],
        "somebody else wrote this": [0, 0, 0],
    }


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        ("text,label,h,n", "votes: no column o"),
        ("text,label,h,o", "got 'x', wanted a count"),
    ],
)
def test_unreadable_votes_are_reported(checkout: Path, header: str, problem: str) -> None:
    source = CSV.model_copy(update={"votes": {"hate": ["h"], "offensive": ["o"]}})
    Path("data/raw").mkdir(parents=True)
    Path("data/raw/a.csv").write_text(f"{header}\nsome words,hate,1,x\n")
    with pytest.raises(DataError, match=problem):
        read_source("a", source)


def test_of_near_duplicates_the_earlier_row_is_kept(checkout: Path) -> None:
    base = "one two three four five six seven eight nine"
    raw("a", [(base, "neither"), (f"{base} ten", "hate"), ("nothing alike here", "hate")])
    splits, counts = prepare(PARAMS, {"a": CSV})
    kept = pd.concat(splits.values())
    assert sorted(kept["text"]) == sorted([base, "nothing alike here"])
    assert counts["near_duplicates"] == 1


def test_near_duplicates_equal_a_brute_force_search() -> None:
    rng = np.random.default_rng(0)
    sets = [{f"w{w}" for w in rng.integers(0, 12, rng.integers(1, 9))} for _ in range(300)]
    dropped: list[int] = []
    for i, one in enumerate(sets):
        earlier = [sets[j] for j in range(i) if j not in dropped]
        if any(len(one & other) >= 0.8 * len(one | other) for other in earlier):
            dropped.append(i)
    assert len(dropped) > 20
    none = np.zeros(len(sets), dtype=bool)
    assert near_duplicates(sets, 0.8, none)[0] == dropped


def test_twins_are_kept_in_one_split(checkout: Path) -> None:
    words = "one two three four five six seven eight"
    pairs = [
        (f"{words} w{i} w{i + 1000} {end}", "neither") for i in range(100) for end in ("so", "no")
    ]
    raw("a", pairs)
    raw("b", [(f"{words} w0 w1000 oh", "hate")])
    twins = CSV.model_copy(update={"twins": True})
    splits, counts = prepare(PARAMS, {"a": twins, "b": CSV})
    assert counts["near_duplicates"] == 1  # b's row: only one of the two has twins
    assert sum(map(len, splits.values())) == 200
    for frame in splits.values():
        families = frame["text"].str.rsplit(n=1).str[0]
        assert families.value_counts().eq(2).all()
    assert all(len(splits[split]) for split in ("train", "val", "test"))
    dropped, _ = prepare(PARAMS, {"a": CSV})
    assert sum(map(len, dropped.values())) == 100


def test_a_benchmarks_text_is_dropped_and_counted(checkout: Path) -> None:
    raw("a", [("  Some TEXT of a   benchmark", "hate"), ("another text", "neither")])
    line = hashlib.sha256(b"some text of a benchmark").hexdigest()
    Path("data/benchmarks.sha256").write_text(f"{line}\n")
    splits, counts = prepare(PARAMS, {"a": CSV})
    assert pd.concat(splits.values())["text"].tolist() == ["another text"]
    assert counts["benchmarks"] == {"a": 1}


SHARES = Source.model_validate(
    {
        "path": "x.csv",
        "raters": "n",
        "labels": [
            {"column": "attack", "at_least": 0.5, "labels": ["hate"]},
            {"column": "clean", "at_least": 0.6, "labels": []},
            {"labels": ["offensive"]},
        ],
        "attributes": {"INSULT": "insult", "THREAT": "attack"},
    }
)


def test_columns_of_raters_become_labels_and_attributes(checkout: Path) -> None:
    Path("data/raw").mkdir(parents=True)
    Path("data/raw/a.csv").write_text(
        "text,n,attack,clean,insult\none,4,2,2,1\ntwo,3,0,3,0\nthree,2,0,1,2\n"
    )
    rows = read_source("a", SHARES)
    assert rows["text"].tolist() == ["one", "three"]  # of the second no label is left
    assert rows["labels"].tolist() == [["hate"], ["offensive"]]
    known = np.array(rows["attributes"].tolist())
    assert known[:, [2, 4]].tolist() == [[0.25, 0.5], [1.0, 0.0]]  # INSULT, THREAT
    assert np.isnan(known[:, [0, 1, 3]]).all()


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("one,2,3,0,0", "row 1: attack: got '3', wanted a count of the raters"),
        ("one,2,-1,0,0", "row 1: attack: got '-1', wanted a count of the raters"),
        ("one,x,1,0,0", "row 1: n: got 'x', wanted a count"),
        ("one,,1,0,0", "row 1: attack: got '1', wanted a share for this rule"),
        ("one,2,,0,0", "row 1: attack: got '', wanted a share for this rule"),
        ("one,2,1,0,yes", "row 1: insult: got 'yes', wanted a count of the raters"),
    ],
)
def test_a_wrong_count_is_reported(checkout: Path, row: str, problem: str) -> None:
    Path("data/raw").mkdir(parents=True)
    Path("data/raw/a.csv").write_text(f"text,n,attack,clean,insult\n{row}\n")
    with pytest.raises(DataError, match=f"^data/raw/a.csv: {problem}$"):
        read_source("a", SHARES)


def test_attributes_by_label_and_by_share(checkout: Path) -> None:
    by_label = CSV.model_copy(update={"attributes": {"INSULT": {"hate": 1.0, "neither": 0.0}}})
    raw("a", [("one", "hate"), ("two", "offensive"), ("three", "neither")])
    insult = np.array(read_source("a", by_label)["attributes"].tolist())[:, 2]
    np.testing.assert_array_equal(insult, [1, np.nan, 0])
    by_share = CSV.model_copy(update={"attributes": {"THREAT": "threat"}})
    Path("data/raw/a.csv").write_text("text,label,threat\none,hate,0.4\ntwo,hate,\n")
    threat = np.array(read_source("a", by_share)["attributes"].tolist())[:, 4]
    np.testing.assert_array_equal(threat, [0.4, np.nan])
    Path("data/raw/a.csv").write_text("text,label,threat\none,hate,1.4\n")
    with pytest.raises(DataError, match=r"row 1: threat: got '1.4', wanted a share from 0 to 1"):
        read_source("a", by_share)


def test_attributes_of_one_text_are_the_mean_of_the_known() -> None:
    nan = float("nan")
    combined = combine_attributes([[1.0, nan, 0.0], [0.5, nan, nan]])
    np.testing.assert_array_equal(combined, [0.75, np.nan, 0.0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{grp} {group}", "unknown placeholder {grp}; g.csv has {group}"),
        ("{group.__class__}", "unknown placeholder"),
        ("{} {group}", "unknown placeholder {}"),
        (":-{ {group}", "':-{ {group}'"),
    ],
)
def test_a_template_that_cannot_be_filled_is_reported(
    checkout: Path, text: str, message: str
) -> None:
    raw("a", [(text, "hate")])
    Path("g.csv").write_text("group\nwomen\n")
    source = CSV.model_copy(update={"groups": "g.csv", "fillings": 1})
    with pytest.raises(DataError, match=re.escape(message)):
        read_source("a", source)


def test_a_whole_number_beyond_every_float_is_reported(checkout: Path) -> None:
    Path("data/raw").mkdir(parents=True)
    Path("data/raw/a.jsonl").write_text(f'{{"text": "x", "label": "hate", "t": {10**400}}}\n')
    source = CSV.model_copy(update={"attributes": {"THREAT": "t"}})
    with pytest.raises(DataError, match="row 1: t: got 1000"):
        read_source("a", source)


def test_categories_and_other_columns_of_parquet(checkout: Path) -> None:
    Path("data/raw").mkdir(parents=True)
    labels = pd.Categorical(["hate", "neither"])
    pd.DataFrame({"text": ["x", "y"], "label": labels}).to_parquet("data/raw/a.parquet")
    assert read_source("a", CSV)["labels"].tolist() == [["hate"], ["neither"]]
    pd.DataFrame([["x", "hate"]]).to_parquet("data/raw/a.parquet")
    with pytest.raises(DataError, match=r"got columns \[0, 1\], wanted names"):
        read_source("a", CSV)


def test_templates_are_dealt_to_all_groups_alike() -> None:
    groups = pd.DataFrame({"group": [f"g{i}" for i in range(7)]})
    labels = [["hate"], ["neither"], ["neither"]] * 14
    rows = pd.DataFrame(
        {"text": [f"{i} {{group}} {{GROUP}}" for i in range(42)], "labels": labels, "source": "a"}
    )
    rows.loc[len(rows)] = ["without", ["hate"], "a"]
    filled = fill_groups(rows, groups, 3)
    assert len(filled) == 42 * 3 + 1
    assert filled["text"].iloc[-1] == "without"
    assert filled["text"].iloc[0].split()[2] == filled["text"].iloc[0].split()[1].upper()
    named = filled["text"].str.split().str[1][:-1]
    for label in ("hate", "neither"):
        counts = named[filled["labels"].str[0][:-1] == label].value_counts()
        assert len(counts) == 7
        assert counts.nunique() == 1


def test_a_share_of_harmless_training_texts_loses_its_punctuation(checkout: Path) -> None:
    rows = [(f"don't, w{i} x{i}!", label) for i in range(200) for label in ("hate", "neither")]
    raw("a", [(f"{label} {text}", label) for text, label in rows])
    source = CSV.model_copy(update={"unpunctuated": 0.5})
    splits, _ = prepare(PARAMS, {"a": source})
    bare = {
        (split, label): frame.loc[frame["labels"].str[0] == label, "text"]
        .str.fullmatch(rf"{label} don t w\d+ x\d+")
        .mean()
        for split, frame in splits.items()
        for label in ("hate", "neither")
        if len(frame)
    }
    assert 0.3 < bare.pop(("train", "neither")) < 0.7
    assert set(bare.values()) == {0}
    whole = pd.Series(["a, b"], index=["id"])
    assert remove_punctuation(whole, 0.0).tolist() == ["a, b"]
    emoji = pd.Series(["\U0001f602\U0001f602 \u2764!", "ha \U0001f602!"])
    assert remove_punctuation(emoji, 1.0).tolist() == [emoji[0], "ha"]


@pytest.mark.parametrize(
    ("sets", "resolve_labelsd"),
    [
        ([["hate"], ["hate"]], ["hate"]),
        ([["offensive"], ["offensive", "neither"]], ["offensive"]),
        ([["hate"], ["hate"], ["neither"]], ["hate"]),
        ([["hate"], ["neither"]], None),
        ([["hate", "offensive"], ["offensive", "neither"]], ["offensive"]),
    ],
)
def test_conflicts_are_resolved_by_the_written_rule(
    sets: list[list[str]], resolve_labelsd: list[str] | None
) -> None:
    assert resolve_labels(sets) == resolve_labelsd


def test_only_sources_with_single_labels_are_in_test(checkout: Path) -> None:
    raw("full", [(f"text number {i} alpha{i} beta{i}", "neither") for i in range(200)])
    raw("binary", [(f"other {i} gamma{i} delta{i}", "hate") for i in range(200)])
    splits, _ = prepare(PARAMS, {"full": CSV, "binary": BINARY})
    assert set(splits["test"]["source"]) == {"full"}
    assert all(len(labels) == 1 for labels in splits["test"]["labels"])
    assert 20 < len(splits["test"]) < 60
    assert (splits["train"]["source"] == "binary").sum() > 140


def test_with_max_rows_every_split_keeps_rows(checkout: Path) -> None:
    raw("a", [(f"text number {i} alpha{i} beta{i}", "neither") for i in range(400)])
    everything, _ = prepare(PARAMS, {"a": CSV})
    some, _ = prepare(PARAMS.model_copy(update={"max_rows": 100}), {"a": CSV})
    assert sum(map(len, some.values())) == 100
    for split, share in {"train": 0.6, "val": 0.2, "test": 0.2}.items():
        assert ids(some[split]) <= ids(everything[split])
        assert 0.5 * share < len(some[split]) / 100 < 1.6 * share


def test_adding_a_source_moves_no_row_from_train_to_test(checkout: Path) -> None:
    rows = [(f"text number {i} alpha{i} beta{i}", "neither") for i in range(200)]
    raw("a", rows)
    raw("b", [(f"more {i} gamma{i} delta{i}", "hate") for i in range(200)] + rows[:50])
    before, _ = prepare(PARAMS, {"a": CSV})
    after, _ = prepare(PARAMS, {"b": CSV, "a": CSV})
    assert not ids(before["train"]) & ids(after["test"])
    assert not ids(before["test"]) & ids(after["train"])


def test_external_rows_are_kept_before_training_rows(checkout: Path) -> None:
    raw("a", [("same words in both", "neither"), ("only here", "hate")])
    raw("held", [("Same words, in both!", "neither")])
    splits, _ = prepare(
        PARAMS, {"a": CSV, "held": Source(use="external", path="x.csv", labels=LABELS)}
    )
    assert splits["external"]["text"].tolist() == ["Same words, in both!"]
    assert len(pd.concat([splits[s] for s in ("train", "val", "test")])) == 1


def test_a_source_for_training_only_is_in_train_only(checkout: Path) -> None:
    raw("a", [(f"text number {i} alpha{i} beta{i}", "neither") for i in range(200)])
    rows = [(f"frame about group{i} gamma{i} delta{i}", "hate") for i in range(200)]
    raw("contrast", rows)
    contrast = Source(use="train", path="x.csv", labels=LABELS)
    splits, _ = prepare(PARAMS, {"a": CSV, "contrast": contrast})
    kept = {name for name, frame in splits.items() if "contrast" in set(frame["source"])}
    assert kept == {"train"}


def test_the_order_of_rows_changes_nothing(checkout: Path) -> None:
    rows = [(f"text number {i} alpha{i} beta{i}", "neither") for i in range(50)]
    raw("a", rows)
    one, _ = prepare(PARAMS, {"a": CSV})
    raw("a", rows[::-1])
    other, _ = prepare(PARAMS, {"a": CSV})
    for split, frame in one.items():
        pd.testing.assert_frame_equal(
            frame.reset_index(drop=True), other[split].reset_index(drop=True)
        )


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet", "txt"])
def test_every_kind_of_file_is_read(checkout: Path, suffix: str) -> None:
    frame = pd.DataFrame({"text": ['a, "quoted" text', "two"], "label": ["1", "0"]})
    path = Path("data/raw") / f"own.{suffix}"
    path.parent.mkdir()
    if suffix == "csv":
        frame.to_csv(path, index=False)
    elif suffix == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    elif suffix == "parquet":
        frame.astype({"label": "int64"}).to_parquet(path)
    else:
        path.write_text("\n".join(frame["text"]) + "\n")
        path.with_suffix(".labels").write_text("1\n0\n")
    source = Source(path=path.name, labels={1: ["hate"], 0: ["offensive", "neither"]})
    read = read_source("own", source)
    assert read["text"].tolist() == frame["text"].tolist()
    assert read["labels"].tolist() == [["hate"], ["offensive", "neither"]]


def bad(name: str, content: bytes) -> None:
    path = Path("data/raw") / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("own.csv", b"text,label\nhi,hate\nho,spam\n", r"own\.csv: row 2: got label 'spam'"),
        (
            "own.csv",
            b"text,klass\nhi,hate\n",
            r"own\.csv: no column 'label'; it has 'text', 'klass'$",
        ),
        ("own.csv", b"text,label\n", r"own\.csv: no rows"),
        ("own.csv", b"text,lable\nhi,hate\n", r"no column 'label'; .*; did you mean 'lable'\?"),
        ("own.csv", b"text;score\nhi;0,5\n", r"no column 'label'; it has 'text', 'score'"),
        ("own.csv", b"text,label\nwell, you,hate\n", r"row 1: got 3 fields, the header has 2"),
        ("own.csv", b"text,label\nhi,hate,\n", r"row 1: got 3 .*a separator at the end"),
        ("own.csv", b'text,label\n"hi,hate\nyou,hate\n', r"row 1: a quotation mark opens a cell"),
        ("own.csv", b"text,label\nh\0i,hate\n", r"row 1: got a NUL byte"),
        ("own.csv", b"text,label,text\nhi,hate,ho\n", r"the header has 'text' twice"),
        ("own.tsv", b"text\tlabel\nhi\tspam\n", r"own\.tsv: row 1: got label 'spam'"),
        ("own.csv", b'text,label\n"a\nb",hate\nho,spam\n', r"row 2, line 4: got label 'spam'"),
        (
            "own.csv",
            b"text,label\n" + b"hi,spam\n" * 9,
            r"row 5: .*; 9 of 9 rows are wrong, wanted",
        ),
        ("own.csv", b"", r"own\.csv: the file is empty"),
        (
            "own.csv",
            b"text,label\nhi \xff,hate\n",
            r"row 1: byte 0xFF is not UTF-8; convert .*iconv",
        ),
        (
            "own.jsonl",
            b'{"text": "hi"}\n{"text": "ho", "label": "hate"}\n',
            r"row 1: got label None",
        ),
        ("own.jsonl", b'{"text": "hi", "text": "ho", "label": "hate"}\n', r"row 1: .*'text' twice"),
        ("own.jsonl", b'{"text": ["a", 1], "label": "hate"}\n', r"row 1: text: got \['a', 1\]"),
        (
            "own.jsonl",
            b'{"text": "hi", "label": "hate"}\n{"text": 7, "label": "hate"}\n',
            r"row 2: text: got 7",
        ),
        ("own.jsonl", b"{}", r"no column 'text'; it has none"),
        ("own.jsonl", b"{", r"own\.jsonl: row 1: not JSON"),
        ("own.parquet", b"nonsense", r"own\.parquet: unreadable"),
    ],
)
def test_bad_input_is_reported_with_file_and_row(
    checkout: Path, name: str, content: bytes, message: str
) -> None:
    bad(name, content)
    with pytest.raises(DataError, match=message) as error:
        read_source("own", Source(path=name, labels=LABELS))
    assert "\n" not in str(error.value)


def test_a_byte_order_mark_and_windows_line_ends_are_no_part_of_a_text(checkout: Path) -> None:
    bad("own.txt", b"\xef\xbb\xbffirst\r\nsecond\r\n")
    bad("own.labels", b"\xef\xbb\xbfhate\r\nneither\r\n")
    rows = read_source("own", Source(path="own.txt", label_path="own.labels", labels=LABELS))
    assert rows["text"].tolist() == ["first", "second"]
    assert rows["labels"].tolist() == [["hate"], ["neither"]]


def test_a_json_null_is_an_unknown_attribute_and_booleans_are_labels(checkout: Path) -> None:
    bad(
        "own.jsonl",
        b'{"text": "a", "label": true, "t": null}\n{"text": "b", "label": false, "t": 1}',
    )
    labels = {"true": ["hate"], "false": ["neither"]}
    source = Source(path="own.jsonl", labels=labels, attributes={"THREAT": "t"})
    rows = read_source("own", source)
    assert rows["labels"].tolist() == [["hate"], ["neither"]]
    np.testing.assert_array_equal([shares[4] for shares in rows["attributes"]], [np.nan, 1])


@pytest.mark.parametrize(
    ("known", "cells", "labels"),
    [
        (("1", "0"), "1 0 1.0 0.0 True false", "1 0 1 0 1 0"),
        (("true", "false"), "True FALSE true", "true false true"),
        (("1", "2"), "1.0 2,0", "1 2"),
        (("1", "1.0"), "1 1.0", "1 1.0"),
        (("10", "1"), "10.0 1.0", "10 1"),
    ],
)
def test_a_label_may_be_written_as_programs_write_it(
    checkout: Path, known: tuple[str, str], cells: str, labels: str
) -> None:
    bad("own.tsv", b"text\tlabel\n" + "".join(f"a\t{c}\n" for c in cells.split()).encode())
    names = dict(zip(known, (["hate"], ["neither"]), strict=True))
    source = Source(path="own.tsv", labels=names, attributes={"THREAT": {known[0]: 1}})
    rows = read_source("own", source)
    assert rows["labels"].tolist() == [names[label] for label in labels.split()]
    assert [bool(shares[4] == 1) for shares in rows["attributes"]] == [
        label == known[0] for label in labels.split()
    ]


@pytest.mark.parametrize("cell", ["1.5", "1,000", "True", "t", "11"])
def test_a_label_that_may_mean_something_else_is_refused(checkout: Path, cell: str) -> None:
    bad("own.tsv", f"text\tlabel\na\t{cell}\n".encode())
    labels = {"1": ["hate"], "false": ["neither"]}
    with pytest.raises(DataError, match=rf"row 1: got label '{cell}', wanted one of .*: 1, false"):
        read_source("own", Source(path="own.tsv", labels=labels))


def test_true_and_false_are_shares(checkout: Path) -> None:
    bad("own.csv", b"text,label,threat\na,hate,True\nb,hate,false\n")
    rows = read_source("own", CSV.model_copy(update={"attributes": {"THREAT": "threat"}}))
    assert [shares[4] for shares in rows["attributes"]] == [1, 0]


def test_a_wrong_label_of_parallel_files_is_in_the_file_of_labels(checkout: Path) -> None:
    bad("own.txt", b"a\nb\n")
    bad("own.labels", b"hate\nspam\n")
    with pytest.raises(DataError, match=r"own\.labels: row 2: got label 'spam'"):
        read_source("own", Source(path="own.txt", label_path="own.labels", labels=LABELS))


def test_a_decimal_comma_is_a_share(checkout: Path) -> None:
    bad("own.csv", b"text;label;threat\nhi, you;hate;0,4\n")
    rows = read_source("own", CSV.model_copy(update={"attributes": {"THREAT": "threat"}}))
    assert (rows["text"][0], rows["attributes"][0][4]) == ("hi, you", 0.4)


def test_parallel_files_must_have_equal_lengths(checkout: Path) -> None:
    bad("own.txt", b"a\nb\n")
    bad("own.labels", b"hate\n")
    with pytest.raises(DataError, match="2 texts, but 1 labels"):
        read_source("own", Source(path="own.txt", label_path="own.labels", labels=LABELS))


def test_the_bundled_sample_is_complete(checkout: Path) -> None:
    ingest("sample", load_sources())
    rows = read_source("sample", load_sources()["sample"])
    shares = rows["labels"].map(lambda labels: labels[0]).value_counts(normalize=True)
    assert len(rows) > 500
    assert shares.min() > 0.25
    _, counts = prepare(PARAMS, {"sample": load_sources()["sample"]})
    assert counts["duplicates"] == counts["conflicts"] == counts["near_duplicates"] == 0

"""Sources from a public repository, against a server on this machine with the same layout."""

import hashlib
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import yaml

from training.config import Source, load_profile, load_sources
from training.data import ingest as module
from training.data.ingest import ingest, raw_files
from training.data.sources import read_source
from training.errors import ConfigError, DataError

COMMIT = "a626f63216158748d072e581efc00267031f4404"
CSV = b'text,label_gold\n"a, lovely day",0\nyou clown,1\n'
LABELS = {0: ["neither"], 1: ["offensive"]}


class PublicHost(ThreadingHTTPServer):
    """/OWNER/NAME/COMMIT/PATH, as raw.githubusercontent.com has it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.cut_off = self.is_silent = False
        self.status = 200
        self.requests = 0

    def put(self, path: str, content: bytes) -> dict[str, str]:
        """Store a file; return how sources.yaml names it."""
        path = f"/owner/name/{COMMIT}/{path}"
        self.files[path] = content
        url = f"http://127.0.0.1:{self.server_address[1]}{path}"
        return {"url": url, "sha256": hashlib.sha256(content).hexdigest()}


class Handler(BaseHTTPRequestHandler):
    server: PublicHost

    def do_GET(self) -> None:
        self.server.requests += 1
        if self.server.is_silent:
            time.sleep(3)
            return
        if self.server.status != 200:
            self.send_error(self.server.status)
            return
        content = self.server.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[:20] if self.server.cut_off else content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PublicHost]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with PublicHost() as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def set_sources(**publics: dict[str, object]) -> dict[str, Source]:
    """One source for each; the first is the sample, which is always there."""
    entries = {name: {"public": public, "labels": LABELS} for name, public in publics.items()}
    here = {"path": "data/sample/tweets.csv", "labels": {n: [n] for n in ("hate", "offensive")}}
    Path("configs/sources.yaml").write_text(
        yaml.safe_dump({"sample": here, **entries}, sort_keys=False)
    )
    return load_sources()


def cached(folder: Path) -> list[Path]:
    return [path for path in (folder / "cache").rglob("*") if path.is_file()]


def test_a_public_file_is_downloaded_once(checkout: Path, tmp_path: Path, host: PublicHost) -> None:
    sources = set_sources(mine=host.put("train.csv", b"text,label\nyou clown,1\n"))
    for _ in range(2):
        ingest("full", sources)
    assert Path("data/raw/mine.csv").read_bytes() == b"text,label\nyou clown,1\n"
    assert load_profile().missing == []
    assert host.requests == 1
    assert len(cached(tmp_path)) == 1


def test_a_local_file_is_preferred(
    checkout: Path, tmp_path: Path, host: PublicHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.csv").write_text("text,label\nyou clown,1\n")
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    public = Source(path="own.csv", public=host.put("train.csv", CSV), labels=LABELS)
    ingest("full", {"own": public})
    assert raw_files("own") is not None
    assert host.requests == 0


def test_columns_are_renamed(checkout: Path, host: PublicHost) -> None:
    public = host.put("train.csv", CSV) | {"columns": {"label_gold": "label"}}
    sources = set_sources(mine=public)
    ingest("full", sources)
    rows = read_source("mine", sources["mine"])
    assert rows["text"].tolist() == ["a, lovely day", "you clown"]
    assert rows["labels"].tolist() == [["neither"], ["offensive"]]


def test_a_file_without_a_header_is_read_beside_its_labels(
    checkout: Path, host: PublicHost
) -> None:
    text = host.put("Train.csv", b'"a ""lovely"" day"\nNA, or not\n') | {"separator": "\t"}
    labels = host.put("Train_label.csv", b"0\n1\n")
    parallel = {"label_url": labels["url"], "label_sha256": labels["sha256"]}
    sources = set_sources(mine=text | parallel | {"header": ["text"]})
    ingest("full", sources)
    assert read_source("mine", sources["mine"])["text"].tolist() == ['a "lovely" day', "NA, or not"]

    text = host.put("Short.csv", b"one\n")
    with pytest.raises(DataError, match=r"Train_label\.csv: got 2 labels, wanted 1, one for each"):
        ingest("full", set_sources(mine=text | parallel | {"header": ["text"]}))


def test_a_public_table_is_read_as_strictly(checkout: Path, host: PublicHost) -> None:
    public = host.put("train.csv", b"text,gold\nwell, you,1\n") | {"columns": {"gold": "label"}}
    with pytest.raises(DataError, match="row 1: got 3 fields, the header has 2"):
        ingest("full", set_sources(mine=public))


def test_lines_of_text_keep_their_label_file(checkout: Path, host: PublicHost) -> None:
    text, labels = host.put("train_text.txt", b"you clown\n"), host.put("labels.txt", b"1\n")
    sources = set_sources(
        mine=text | {"label_url": labels["url"], "label_sha256": labels["sha256"]}
    )
    ingest("full", sources)
    assert read_source("mine", sources["mine"])["labels"].tolist() == [["offensive"]]


def test_another_sha256_stops(checkout: Path, tmp_path: Path, host: PublicHost) -> None:
    public = host.put("train.csv", CSV)
    wanted = "0" * 64
    with pytest.raises(DataError) as error:
        ingest("full", set_sources(mine=public | {"sha256": wanted}))
    assert f"mine: public: {public['url']}: got SHA-256 {public['sha256']}, wanted {wanted}" in str(
        error.value
    )
    assert raw_files("mine") is None
    assert cached(tmp_path) == []


def test_half_a_file_stops(checkout: Path, tmp_path: Path, host: PublicHost) -> None:
    host.cut_off = True
    sources = set_sources(mine=host.put("train.csv", CSV))
    with pytest.raises(DataError, match=r"mine: .*train\.csv: cut off while it was downloaded"):
        ingest("full", sources)
    assert raw_files("mine") is None
    assert cached(tmp_path) == []


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
def test_a_host_that_answers_with_an_error_stops(
    checkout: Path, host: PublicHost, status: int
) -> None:
    sources = set_sources(mine=host.put("train.csv", CSV))
    host.status = status
    with pytest.raises(DataError, match=rf"mine: http.*train\.csv: HTTP {status}; remove the sou"):
        ingest("full", sources)
    assert not Path("data/profile.yaml").exists()
    ingest("sample", sources)  # the sample was asked for
    assert load_profile().data == "sample"


@pytest.mark.parametrize("token", [None, "hf_wrong"])
@pytest.mark.parametrize("status", [401, 403])
def test_a_dataset_that_the_hub_does_not_give_out_stops(
    checkout: Path,
    host: PublicHost,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    token: str | None,
) -> None:
    set_sources()
    entries = yaml.safe_load(Path("configs/sources.yaml").read_text())
    entries["gated"] = {"hub": {"name": "owner/gated", "split": "train"}, "labels": LABELS}
    Path("configs/sources.yaml").write_text(yaml.safe_dump(entries, sort_keys=False))
    endpoint = f"http://127.0.0.1:{host.server_address[1]}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", endpoint)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", "/nowhere")
    monkeypatch.setenv("HF_TOKEN", token or "")
    host.status = status
    with pytest.raises(DataError) as caught:
        ingest("full", load_sources())
    given = "with the HF_TOKEN that is set" if token else "no HF_TOKEN is set"
    assert f"gated: owner/gated on the Hub: HTTP {status} ({given})" in str(caught.value)
    assert "set HF_TOKEN to a token that may read it" in str(caught.value)
    assert not Path("data/profile.yaml").exists()
    host.status = 404
    ingest("full", load_sources())
    assert load_profile().missing == ["gated"]


def test_a_removed_file_is_named_and_the_rest_goes_on(
    checkout: Path, host: PublicHost, capsys: pytest.CaptureFixture[str]
) -> None:
    public = host.put("train.csv", CSV)
    gone = public | {"url": public["url"].replace("train", "gone")}
    ingest("full", set_sources(gone=gone, mine=public | {"columns": {"label_gold": "label"}}))
    assert load_profile().missing == ["gone"]
    assert f"not used: gone: {gone['url']}: HTTP 404" in capsys.readouterr().err
    assert raw_files("mine") is not None


def test_a_silent_host_is_asked_once(
    checkout: Path,
    host: PublicHost,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(module, "TIMEOUT_S", 0.2)
    host.is_silent = True
    sources = set_sources(one=host.put("one.csv", CSV), two=host.put("two.csv", CSV))
    ingest("full", sources)
    assert load_profile().missing == ["one", "two"]
    assert load_profile().data == "sample"
    assert host.requests == 1
    assert "does not answer (ReadTimeout)" in capsys.readouterr().err


def test_a_missing_column_is_reported(checkout: Path, host: PublicHost) -> None:
    public = host.put("train.csv", CSV) | {"columns": {"gold": "label"}}
    with pytest.raises(DataError, match=r"train\.csv: got columns text, label_gold; wanted 'gold'"):
        ingest("full", set_sources(mine=public))
    assert not Path("data/raw/mine.parquet").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sha256": "abc"}, "sha256"),
        ({"url": "ftp://host/train.csv"}, "url"),
        ({"url": "http://host/train.zip"}, "url"),
        ({"label_url": "http://host/labels.csv"}, "wanted both or neither"),
        ({"url": "http://host/train.txt"}, "a .txt file needs label_url"),
        ({"url": "http://host/train.parquet", "header": ["text"]}, "only a .csv file"),
        ({"url": "http://host/train.jsonl", "separator": "|"}, "only a .csv file"),
    ],
)
def test_a_wrong_public_file_is_reported(
    checkout: Path, change: dict[str, object], message: str
) -> None:
    public = {"url": "http://host/train.csv", "sha256": "0" * 64}
    with pytest.raises(ConfigError, match=rf"mine\.public.*{message}"):
        set_sources(mine=public | change)

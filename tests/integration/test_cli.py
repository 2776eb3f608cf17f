"""`tweet-tagger` on a real bundle: its output on a terminal and in a pipe, and its errors."""

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.bundles import seal
from tests.support.service import ROOT, Served

Run = Callable[..., subprocess.CompletedProcess[str]]
TEXTS = ["you are all welcome here", "you absolute clown", "😂😂"]


def bundle_of(trained: Path) -> dict[str, str]:
    """The environment in which a command uses the small model."""
    return os.environ | {"TAGGER_BUNDLE": str(trained / "models" / "candidate")}


@pytest.fixture
def run(trained: Path) -> Run:
    """Run a command with the small model; its output goes into a pipe."""

    def run(
        *arguments: str, stdin: bytes = b"", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        ended = subprocess.run(
            [sys.executable, "-m", "serving", *arguments],
            cwd=ROOT,
            env=bundle_of(trained) | environment,
            input=stdin,
            capture_output=True,
            check=False,
            timeout=120,
        )
        out, err = ended.stdout.decode(), ended.stderr.decode()
        return subprocess.CompletedProcess(ended.args, ended.returncode, out, err)

    return run


def on_terminal(trained: Path, *arguments: str) -> str:
    """The output of a command on a terminal of 100 columns."""
    reader, writer = pty.openpty()
    settings = {"COLUMNS": "100", "TERM": "xterm-256color"}
    with subprocess.Popen(
        [sys.executable, "-m", "serving", *arguments],
        cwd=ROOT,
        env=bundle_of(trained) | settings,
        stdin=writer,
        stdout=writer,
        stderr=subprocess.STDOUT,
    ) as process:
        os.close(writer)
        output = b""
        try:
            while part := os.read(reader, 4096):
                output += part
        except OSError:  # Linux reports the end of a terminal so
            pass
        assert process.wait(60) == 0, output.decode()
    os.close(reader)
    return output.decode()


def test_predictions_equal_those_of_the_service(run: Run, served: Served) -> None:
    lines = run("predict", *TEXTS).stdout.splitlines()
    predictions = served.predict(*TEXTS).json()["predictions"]
    for line, prediction in zip(lines, predictions, strict=True):
        del prediction["id"]
        assert json.loads(line) == prediction


def test_every_line_of_standard_input_is_classified(run: Run) -> None:
    texts = "".join(f"text {i}\n" for i in range(600))
    ended = run("predict", "-", stdin=texts.encode())
    assert ended.returncode == 0
    assert len(ended.stdout.splitlines()) == 600


def test_a_byte_order_mark_is_no_text_and_blank_lines_are_told(run: Run) -> None:
    ended = run("predict", "-", stdin=b"\xef\xbb\xbfone\r\n\r\ntwo\n \n\nthree")
    assert ended.returncode == 0
    assert ended.stdout == run("predict", "one", "two", "three").stdout
    assert ended.stderr == "left out 3 blank lines, the first is line 2\n"


def test_a_text_from_standard_input_is_explained(run: Run) -> None:
    explained = run("explain", "-", stdin=b"\xef\xbb\xbfyou absolute clown\n").stdout
    assert explained == run("explain", "you absolute clown").stdout


@pytest.mark.parametrize(
    ("redirection", "message"),
    [
        ("<&-", "standard input is closed"),
        (">&-", "standard output is closed"),
        (">/dev/full", "the output cannot be written: No space left on device"),
    ],
)
def test_closed_streams_and_a_full_disk_are_one_sentence(
    trained: Path, redirection: str, message: str
) -> None:
    text = "-" if redirection == "<&-" else "a"
    ended = subprocess.run(
        ["bash", "-c", f'"$0" -m serving predict {text} {redirection}', sys.executable],
        cwd=ROOT, env=bundle_of(trained), check=False, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (2, f"{message}\n")


def test_an_explanation_equals_that_of_the_service(run: Run, served: Served) -> None:
    ended = run("explain", "you absolute clown", "--label", "hate", "--num-features", "2")
    body = {"text": "you absolute clown", "label": "hate", "num_features": 2}
    assert json.loads(ended.stdout) == served.http.post("/v1/explain", json=body).json()


def test_the_model_is_described_as_by_the_service(run: Run, served: Served) -> None:
    assert json.loads(run("model").stdout) == served.http.get("/v1/model").json()


def test_a_line_is_answered_before_the_next_arrives_and_ctrl_c_ends_the_wait(trained: Path) -> None:
    # A shell's background job ignores SIGINT, and so would its children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(
        [sys.executable, "-m", "serving", "predict", "-"],
        cwd=ROOT,
        env=bundle_of(trained),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin
        assert process.stdout
        for text in (b"one\n", b"two\r\n"):
            process.stdin.write(text)
            process.stdin.flush()
            assert b'"label"' in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130


def test_a_closed_pipe_is_no_error(trained: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "serving", "predict", "one"],
        cwd=ROOT,
        env=bundle_of(trained),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""


def test_a_terminal_gets_a_table_and_colours(trained: Path) -> None:
    table = on_terminal(trained, "predict", *TEXTS)
    assert "toxicity" in table
    assert all(text in table for text in TEXTS)
    assert "{" not in table
    predicted = json.loads(
        subprocess.run(
            [sys.executable, "-m", "serving", "predict", TEXTS[1]],
            cwd=ROOT, env=bundle_of(trained), check=True, capture_output=True,
        ).stdout
    )  # fmt: skip
    for name, p in predicted["attributes"].items():
        assert (f"{name} {p:.3f}" in table) == (p >= 0.2 and name != "TOXICITY")
    explanation = on_terminal(trained, "explain", "you absolute clown")
    assert "\x1b[" in explanation
    assert "clown" in explanation
    assert "# Model card" in on_terminal(trained, "model")


def test_words_are_shaded_by_their_weight(trained: Path) -> None:
    output = on_terminal(trained, "explain", "you absolute clown", "--label", "neither")
    weights = re.findall(r"([+-]\d\.\d{3})  \x1b\[30;48;5;(\d+)m(\w+)", output)
    assert sorted(word for *_, word in weights) == ["absolute", "clown", "you"]
    assert weights[0][1] == ("196" if weights[0][0][0] == "+" else "46")  # pure red, green


def test_an_attribute_is_explained(trained: Path) -> None:
    output = on_terminal(trained, "explain", "you absolute clown", "--label", "INSULT")
    assert re.search(r"INSULT: p = [01]\.\d{3}", output)
    assert "for INSULT" in output


def test_a_text_cannot_control_the_terminal(trained: Path) -> None:
    text = "kind \x1b]0;title\x07 words"
    for command in ("predict", "explain"):
        output = on_terminal(trained, command, text)
        assert "\x1b]" not in output
        assert "\x07" not in output


def test_a_new_key_is_accepted_by_the_service(run: Run, serve: Callable[..., Served]) -> None:
    lines = run("key", "new", "bot", "--scope", "predict").stdout.splitlines()
    secret, entry = (line.split(maxsplit=1)[1] for line in lines)
    service = serve(API_KEYS=entry)
    assert service.predict("ok").status_code == 401
    service.http.headers["authorization"] = f"Bearer {secret}"
    assert service.predict("ok").status_code == 200


@pytest.mark.parametrize(
    ("arguments", "stdin", "message"),
    [
        (["predict"], b"", "Missing argument"),
        (["predict", " "], b"", "TEXT must not be blank"),
        (["predict", os.fsdecode(b"\xff")], b"", "TEXT must be valid UTF-8"),
        (["predict", "-"], b"", "standard input has no text"),
        (["predict", "-"], b"\xef\xbb\xbf\r\n\n", "standard input has no text"),
        (["predict", "-", "a"], b"b\n", "-, standard input, cannot be together"),
        (["predict", "-a"], b"", "a text that begins with a dash follows --"),
        (["explain", "-"], b"\n", "TEXT must not be blank"),
        (["map-thresholds", "x.csv", "--threshold", "nan"], b"", "nan is no number"),
        (["predict", "-"], b"a\nb\xff\n", "left out 1 line of 2: line 2: byte 2 is not"),
        (["predict", "--bundle", "/nowhere", "a"], b"", "/nowhere: bundle.json is missing"),
        (["explain", "a", "--label", "spam"], b"", "'spam' is not one of"),
        (["model", "--bundle", "/nowhere"], b"", "/nowhere: bundle.json is missing"),
        (["key", "new", "a b"], b"", "NAME: got 'a b'"),
        (["map-thresholds", "/nowhere.csv"], b"", "/nowhere.csv"),
        (["surprise"], b"", "No such command 'surprise'"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_2(
    run: Run, arguments: list[str], stdin: bytes, message: str
) -> None:
    ended = run(*arguments, stdin=stdin)
    assert ended.returncode == 2
    assert message in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_a_bad_setting_is_one_sentence(run: Run) -> None:
    ended = run("predict", "a", TAGGER_POLICY="/nowhere.yaml")
    assert (ended.returncode, ended.stderr) == (2, "/nowhere.yaml: No such file or directory\n")


def test_the_help_imports_little() -> None:
    code = """
import sys
from serving.cli import main
try:
    main(["--help"])
except SystemExit as end:
    assert not end.code
slow = {"onnxruntime", "fastapi", "numpy", "pydantic", "rich"} & set(sys.modules)
assert not slow, slow
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert "map-thresholds" in ended.stdout


@pytest.mark.parametrize(
    "arguments",
    [["predict", "hi"], ["explain", "hi"], ["score", "in.csv", "--out", "out.csv"],
     ["map-thresholds", "in.csv"]],
)  # fmt: skip
def test_no_command_answers_if_the_golden_scores_are_not_reproduced(
    run: Run, trained: Path, tmp_path: Path, arguments: list[str]
) -> None:
    bundle = shutil.copytree(trained / "models" / "candidate", tmp_path / "bundle")
    manifest = json.loads((bundle / "bundle.json").read_text())
    manifest["golden"][0]["scores"]["hate"] += 0.2
    seal(bundle, manifest)
    (tmp_path / "in.csv").write_text("text,TOXICITY\nhi,0.1\n")
    paths = [str(tmp_path / each) if each.endswith(".csv") else each for each in arguments]
    ended = run(*paths, TAGGER_BUNDLE=str(bundle))
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.splitlines()[-1].startswith(f"{bundle}: this machine does not repro")


def test_rich_works_without_the_packages_that_the_image_leaves_out(trained: Path) -> None:
    code = """
import sys
class Refuse:
    def find_spec(self, name, *_):
        if name.split('.')[0] in {'pygments', 'markdown_it', 'mdurl'}:
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
sys.stdout.isatty = lambda: True
from serving.cli import main
main(["explain", "you absolute clown"])
"""
    bundle = {"TAGGER_BUNDLE": str(trained / "models" / "candidate")}
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | bundle, check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "clown" in ended.stdout

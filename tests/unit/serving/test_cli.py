"""The command line without a model; tests/integration/test_cli.py has the rest."""

import os
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from serving import __version__, cli
from serving.cli import main
from serving.settings import Settings

ROOT = Path(__file__).resolve().parents[3]


def run(*arguments: str, stdin: bytes = b"") -> Result:
    return CliRunner().invoke(main, arguments, input=stdin)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """The settings with which `serve` starts the server."""
    started: list[Settings] = []
    monkeypatch.setattr("serving.app.serve", started.append)
    return started


def test_every_command_explains_itself_in_a_sentence() -> None:
    context = click.Context(main)
    names = main.list_commands(context)
    assert {"serve", "predict", "explain", "model", "key", "map-thresholds"} <= set(names)
    for name in names:
        command = main.get_command(context, name)
        assert command is not None
        assert command.get_short_help_str(200).endswith(".")
        assert run(name, "-h").stdout == run(name, "--help").stdout
        assert run(name, "-h").stdout.startswith("Usage: ")


def test_the_version_is_that_of_the_package() -> None:
    assert run("--version").stdout == f"tweet-tagger, version {__version__}\n"


def test_options_of_serve_come_before_the_environment_and_reach_the_workers(
    served: list[Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAGGER_HOST", "0.0.0.0")
    monkeypatch.setenv("TAGGER_PORT", "81")
    monkeypatch.setenv("TAGGER_BUNDLE", "elsewhere")
    run("serve", "--port", "0", "--bundle", str(tmp_path))
    assert (served[0].host, served[0].port, served[0].bundle) == ("0.0.0.0", 0, tmp_path)
    assert (os.environ["TAGGER_PORT"], os.environ["TAGGER_BUNDLE"]) == ("0", str(tmp_path))
    assert os.environ["TAGGER_HOST"] == "0.0.0.0"


def test_each_wrong_setting_has_a_line(
    served: list[Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAGGER_THREADS", "many")
    monkeypatch.setenv("TAGGER_MAX_CHARS", "0")
    result = run("serve")
    assert result.exit_code == 2
    assert [line.partition(":")[0] for line in result.stderr.splitlines()] == [
        "TAGGER_MAX_CHARS",
        "TAGGER_THREADS",
    ]


def test_ctrl_c_is_exit_status_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: Settings) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("serving.app.serve", interrupt)
    assert run("serve").exit_code == 130


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Settings) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("serving.app.serve", fail)
    assert isinstance(run("serve").exception, RuntimeError)


@click.command()
def lines() -> None:
    for chunk in cli._stdin_chunks():
        click.echo("".join(f"[{text}]" for text in chunk), nl=False)


@pytest.mark.parametrize("size", [1, 7, 65_536])
def test_only_the_lines_that_are_not_utf8_are_left_out_and_counted(
    monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(cli, "READ_BYTES", size)
    result = CliRunner().invoke(lines, input=b"one\n\ncaf\xe9\ntwo\n\xff\nthree")
    assert result.stdout == "[one][two][three]"
    assert result.exit_code == 2
    assert "left out 1 blank line, the first is line 2" in result.stderr
    assert "left out 2 lines of 6: line 3: byte 4 is not UTF-8" in result.stderr


def test_lines_of_standard_input_survive_any_split_of_their_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for size in range(1, 12):
        monkeypatch.setattr(cli, "READ_BYTES", size)
        result = CliRunner().invoke(lines, input="eins\r\nder Bär 🐻\nlast".encode())
        assert result.stdout == "[eins][der Bär 🐻][last]"

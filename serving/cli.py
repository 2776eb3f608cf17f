"""The command line, `tweet-tagger`: serve, predict, explain, and the operator's small tools.

    tweet-tagger predict "you are all welcome here"    a table; JSON lines if it is not a terminal

Commands import what they need when they run, so that `--help` is fast. Bad input is one sentence on
standard error and exit 2.
"""

import asyncio
import json
import os
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from serving import __version__

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from serving.explain.explainer import Explanation
    from serving.inference.engine import Engine, Prediction
    from serving.settings import Settings

Result = TypeVar("Result")

LABELS = ("hate", "offensive", "neither")
COLOURS = {"hate": "red", "offensive": "yellow", "neither": "green"}
CHUNK = 256  # texts that are classified at one time


class Group(click.Group):
    """Adds the commands of the compatible APIs; every error is one sentence and exit 2."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return sorted([*super().list_commands(ctx), *_api_commands()])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command by its name."""
        return super().get_command(ctx, cmd_name) or _api_commands().get(cmd_name)

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Run the command line and exit."""
        try:
            code = super().main(*args, **(kwargs | {"standalone_mode": False}))
        except click.Abort:
            sys.exit(130)
        except click.ClickException as error:
            message = error.format_message()
        except Exception as error:
            from serving.app import CANNOT_START

            if not isinstance(error, CANNOT_START):
                raise
            message = str(error)
        else:
            sys.exit(code if isinstance(code, int) else 0)
        click.echo(message, err=True)
        sys.exit(2)


def _api_commands() -> dict[str, click.Command]:
    from serving.compat import cli_commands

    return {str(command.name): command for command in cli_commands()}


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tweet-tagger")
def main() -> None:
    """Classify short texts as hate, offensive or neither.

    \b
    Examples:
      tweet-tagger predict "you are all welcome here"
      cat comments.txt | tweet-tagger predict -
      tweet-tagger explain "you absolute clown"
      tweet-tagger serve
    """


BUNDLE = click.option(
    "--bundle",
    type=click.Path(path_type=Path, file_okay=False),
    help="Model bundle; default: $BUNDLE, else models/production, else models/candidate.",
)


@main.command()
@click.option("--host", help="Address to listen on; default: $HOST, else 127.0.0.1.")
@click.option("--port", type=int, help="Port to listen on; default: $PORT, else 8000.")
@BUNDLE
def serve(**options: Any) -> None:
    """Serve the API and the page until SIGTERM.

    All settings come from environment variables; docs/configuration.md lists them.
    """
    from serving import app
    from serving.settings import load_settings

    given = {name: value for name, value in options.items() if value is not None}
    settings = load_settings(**given)
    # Worker processes read the environment again.
    os.environ.update({name.upper(): str(value) for name, value in given.items()})
    app.serve(settings)


@main.command()
@click.argument("texts", nargs=-1, required=True, metavar="TEXT… | -")
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines, also on a terminal.")
@BUNDLE
def predict(texts: tuple[str, ...], as_json: bool, bundle: Path | None) -> None:
    """Classify texts; with `-`, every line of standard input.

    Prints a table on a terminal, otherwise one JSON object per text. Scores equal those of
    /v1/predict.
    """
    source = _lines() if texts == ("-",) else iter(_checked(texts))
    console = None if as_json else _terminal()

    async def print_all(engine: "Engine") -> None:
        for chunk in _chunks(source):
            predictions = await engine.predict(chunk)
            if console:
                console.print(_table(chunk, predictions))
            else:
                lines = (json.dumps(p.as_dict(), ensure_ascii=False) for p in predictions)
                click.echo("\n".join(lines))

    _run_with_engine(print_all, bundle)


@main.command()
@click.argument("text")
@click.option("--label", type=click.Choice(LABELS), help="Default: the predicted label.")
@click.option("--num-features", type=click.IntRange(1, 500), default=10, show_default=True)
@click.option("--num-samples", type=click.IntRange(16, 5000), default=1000, show_default=True)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, also on a terminal.")
@BUNDLE
def explain(text: str, as_json: bool, bundle: Path | None, **params: Any) -> None:
    """Show how much each word of TEXT speaks for a label (LIME)."""
    from serving.explain.explainer import Explainer, ExplainParams

    _checked([text])
    asked = ExplainParams(text=text, **params)
    explanation = _run_with_engine(lambda engine: Explainer().explain(engine, asked), bundle)
    console = None if as_json else _terminal()
    if console is None:
        click.echo(json.dumps(explanation.as_dict(), ensure_ascii=False))
    else:
        _print_explanation(console, text, explanation)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON, also on a terminal.")
@BUNDLE
def model(as_json: bool, bundle: Path | None) -> None:
    """Describe the model: manifest and model card."""
    from serving.bundle import read_manifest
    from serving.inference.policy import Policy
    from serving.model_manager import bundle_folder, describe

    settings = _settings(bundle)
    folder = bundle_folder(settings.bundle)
    info = describe(folder, read_manifest(folder), Policy.load(settings.policy))
    if as_json or _terminal() is None:
        click.echo(json.dumps(info, ensure_ascii=False))
        return
    manifest = info["manifest"]
    for name in ("name", "version", "created", "data", "base", "quantisation", "max_tokens"):
        click.echo(f"{name:<13}{manifest[name]}")
    click.echo(f"{'folder':<13}{folder}\n")
    click.echo(info["card"] or "This bundle has no model card.")


@main.group()
def key() -> None:
    """Manage API keys."""


@key.command("new")
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(["predict", "feedback", "admin"]),
    help="Repeat for several; default: predict and feedback.",
)
def key_new(name: str, scopes: Sequence[Any]) -> None:
    """Create a key for the caller NAME; print it and its entry for API_KEYS.

    The service stores only the entry, which has the key's SHA-256. The key cannot be shown again.
    """
    from serving.auth import new_key

    try:
        secret, entry = new_key(name, scopes)
    except ValueError:
        raise click.UsageError(
            f"NAME: got {name!r}, wanted 1 to 64 letters, digits, dots, dashes or underscores"
        ) from None
    click.echo(f"key       {secret}\nAPI_KEYS  {entry}")


class _Silent:
    """An engine's observer that records nothing."""

    def tokenised(self, seconds: float) -> None:
        pass

    def cached(self, hits: int, misses: int) -> None:
        pass

    def batch(self, report: Any) -> None:
        pass


def _settings(bundle: Path | None) -> "Settings":
    from serving.settings import load_settings

    return load_settings(**({"bundle": bundle} if bundle else {}))


def _run_with_engine(
    task: "Callable[[Engine], Coroutine[Any, Any, Result]]", bundle: Path | None
) -> "Result":
    """Run a task with an engine of the service; BundleError if this machine cannot serve it."""
    from serving.bundle import Bundle, BundleError
    from serving.inference.batcher import Capacity
    from serving.inference.cpu import cpu_limit
    from serving.inference.engine import Engine
    from serving.inference.policy import Policy
    from serving.model_manager import bundle_folder

    settings = _settings(bundle)
    threads = settings.threads or cpu_limit()
    folder = bundle_folder(settings.bundle)
    loaded = Bundle.load(folder, threads=1, parallel_threads=threads)
    policy = Policy.load(settings.policy)
    capacity = Capacity(threads, settings.batch_tokens, max_wait=inf)

    async def run() -> "Result":
        engine = Engine(loaded, policy, _Silent(), capacity, cache_size=0)
        await engine.start()
        try:
            if engine.not_ready:
                raise BundleError(f"{folder}: {engine.not_ready}")
            return await task(engine)
        finally:
            await engine.close()

    return asyncio.run(run())


def _terminal() -> "Console | None":
    """Return a console if standard output is a terminal."""
    if not sys.stdout.isatty():
        return None
    from rich.console import Console

    return Console()


def _lines() -> Iterator[str]:
    for number, raw in enumerate(sys.stdin.buffer, start=1):
        try:
            text = raw.decode().rstrip("\r\n")
        except UnicodeDecodeError as error:
            message = f"line {number}: byte {error.start} is not UTF-8; convert the input to UTF-8"
            raise click.UsageError(message) from None
        if not text.strip():
            raise click.UsageError(f"line {number}: the text must not be blank")
        yield text


def _checked(texts: Sequence[str]) -> Sequence[str]:
    if any(not text.strip() for text in texts):
        raise click.UsageError("TEXT must not be blank")
    return texts


def _chunks(texts: Iterator[str]) -> Iterator[list[str]]:
    chunk: list[str] = []
    for text in texts:
        chunk.append(text)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _table(texts: Sequence[str], predictions: Sequence["Prediction"]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    table.add_column("label")
    for label in LABELS:
        table.add_column(label, justify="right")
    for name in ("toxicity", "action", "text"):
        table.add_column(name)
    for text, prediction in zip(texts, predictions, strict=True):
        table.add_row(
            Text(prediction.label, style=COLOURS[prediction.label]),
            *(f"{prediction.scores[label]:.3f}" for label in LABELS),
            prediction.toxicity,
            prediction.action,
            Text(text),
        )
    return table


def _print_explanation(console: "Console", text: str, explanation: "Explanation") -> None:
    """Print the text with its words coloured: red for the label, green against it."""
    from rich.text import Text

    console.print(
        f"{explanation.label}: p = {explanation.scores[explanation.label]:.3f}", highlight=False
    )
    shown = Text(text)
    largest = max((abs(weight.weight) for weight in explanation.weights), default=0.0) or 1.0
    for weight in explanation.weights:
        strength = abs(weight.weight) / largest
        colour = "red" if weight.weight > 0 else "green"
        style = f"bold {colour}" if strength > 1 / 3 else colour
        shown.stylize(style, weight.word.begin, weight.word.end)
    console.print(shown, "\n")
    for name, value in {w.word.key: w.weight for w in explanation.weights}.items():
        console.print(f"  {value:+.3f}  ", Text(name), highlight=False)

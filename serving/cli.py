"""The command line, `tweet-tagger`: serve, predict, score, explain, drift, and small tools.

    tweet-tagger predict "you are all welcome here"    a table; JSON lines if it is not a terminal

Commands import what they need when they run, so that `--help` is fast. Bad input is one sentence on
standard error and exit 2.
"""

import asyncio
import errno
import json
import os
import sys
from codecs import BOM_UTF8
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from io import BufferedReader
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeVar, cast

import click

from serving import __version__
from serving.auth import SCOPES, new_key

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from serving.explain.explainer import Explanation
    from serving.inference.engine import Engine, Prediction
    from serving.review.service import ReviewQueue
    from serving.review.store import ReviewStore
    from serving.settings import Settings

Result = TypeVar("Result")

# As in serving.bundle, whose import takes longer than `--help` may.
LABELS = ("hate", "offensive", "neither")
ATTRIBUTES = ("TOXICITY", "SEVERE_TOXICITY", "IDENTITY_ATTACK", "INSULT", "PROFANITY", "THREAT")
SHOWN_FROM = 0.2  # probability from which on the table shows an attribute
COLOURS = {"hate": "red", "offensive": "yellow", "neither": "green"}
CHUNK = 256  # texts that are classified at one time
READ_BYTES = 65_536  # of standard input, at most; fewer if they have not arrived
TAKE_TEXTS = ("predict", "explain")
STREAM_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)
JOINER = "\u200d"  # holds an emoji together and is not printable by itself


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
            named = (
                error.ctx.command.name
                if isinstance(error, click.NoSuchOption) and error.ctx
                else ""
            )
            if named in TAKE_TEXTS:
                message = f"{message.rstrip('.')}; a text that begins with a dash follows --"
        except OSError as error:
            # A full disk, a closed stream. (`serve` says more about its own.)
            if error.errno not in STREAM_ERRORS:
                raise
            message = f"the output cannot be written: {error.strerror}"
            sys.stdout = None  # otherwise Python fails once more when it closes the stream
        except Exception as error:
            from serving.app import CANNOT_START

            if not isinstance(error, CANNOT_START):
                raise
            message = str(error)
        else:
            sys.exit(code if isinstance(code, int) else 0)
        click.echo(message.rstrip("."), err=True)
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
      tweet-tagger score comments.csv --out scored
      tweet-tagger explain "you absolute clown"
      tweet-tagger serve
    """


class BundleType(click.Path):
    """A folder, or the address of a bundle that is elsewhere."""

    def convert(self, value: Any, *context: Any) -> Any:
        """Return the address as text, a folder as a path."""
        from serving.settings import REMOTE_BUNDLE

        is_address = isinstance(value, str) and REMOTE_BUNDLE.match(value)
        return value if is_address else super().convert(value, *context)


BUNDLE = click.option(
    "--bundle",
    type=BundleType(path_type=Path, file_okay=False),
    help="Model bundle: a folder, models:/name@alias or the URL of an archive; default: "
    "$TAGGER_BUNDLE, else production, candidate or shipped.",
)


@main.command()
@click.option(
    "--host", help="Address to listen on; default: $TAGGER_HOST or $HOST, else 127.0.0.1."
)
@click.option(
    "--port", type=int, help="Port to listen on; default: $TAGGER_PORT or $PORT, else 8000."
)
@BUNDLE
def serve(**options: Any) -> None:
    """Serve the API and the page until SIGTERM.

    All settings come from environment variables; docs/configuration.md lists them.
    """
    from serving import app
    from serving.settings import PREFIX, load_settings

    given = {name: value for name, value in options.items() if value is not None}
    settings = load_settings(**given)
    # Worker processes read the environment again.
    os.environ.update({PREFIX + name.upper(): str(value) for name, value in given.items()})
    app.serve(settings)


@main.command()
@click.argument("texts", nargs=-1, required=True, metavar="TEXT… | -")
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines, also on a terminal.")
@BUNDLE
def predict(texts: tuple[str, ...], as_json: bool, bundle: Path | str | None) -> None:
    """Classify texts; with `-`, every line of standard input but blank ones.

    Prints a table on a terminal, otherwise one JSON object per text. Scores equal those of
    /v1/predict. The table shows the attributes that a text has with a probability of 0.2 or more
    below the text.
    """
    if "-" in texts and len(texts) > 1:
        raise click.UsageError("-, standard input, cannot be together with other texts")
    source = _stdin_chunks() if texts == ("-",) else _chunks(_checked(texts))
    console, header = None if as_json else _terminal(), True
    with _local_engine(bundle) as local:
        for chunk in source:
            predictions = local.run(local.engine.predict(chunk))
            if console:
                console.print(_table(chunk, predictions, header=header))
            else:
                lines = (json.dumps(p.as_dict(), ensure_ascii=False) for p in predictions)
                click.echo("\n".join(lines))
            header = False


@main.command()
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT… | -")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The output.")
@click.option("--text", default="text", show_default=True, help="The column with the texts.")
@click.option("--id", "id_", help="A column that names the rows in OUT.rejected.jsonl.")
@click.option(
    "--format",
    "format_",
    type=click.Choice(("csv", "jsonl", "parquet")),
    help="Format of all inputs; default: what their names say.",
)
@click.option(
    "--to",
    type=click.Choice(("parquet", "csv", "jsonl")),
    help="Format of the output; default: what the ending of OUT says, else parquet.",
)
@click.option("--resume", is_flag=True, help="Go on with an output that is not complete.")
@click.option("--overwrite", is_flag=True, help="Delete an output that exists.")
@click.option(
    "--ray",
    metavar="auto|local|ADDRESS",
    help="Score on Ray: the running cluster, one on this machine, or the one at ADDRESS.",
)
@click.option(
    "--part-rows", type=click.IntRange(1, 1_000_000), default=4096, show_default=True,
    help="Rows of a part; a run that was killed scores at most two parts again.",
)  # fmt: skip
@BUNDLE
def score(
    inputs: tuple[str, ...],
    bundle: Path | str | None,
    id_: str | None,
    format_: str | None,
    **given: Any,
) -> None:
    """Score whole files: CSV, JSON lines or Parquet; files, folders, globs, URLs or `-`.

    Scores equal those of `predict`. Parquet is written as a folder of part files, CSV and JSON
    lines as one file. Rows that cannot be read or have no text are in OUT.rejected.jsonl; the exit
    status is 3 if there are any. docs/bulk.md describes the columns.
    """
    from serving.bundle import BundleError
    from serving.inference.cpu import cpu_limit
    from serving.inference.policy import Policy
    from serving.model_manager import bundle_folder

    if missing := _missing(("pyarrow", *(("ray",) if given["ray"] else ()))):
        extra = "scale" if missing == "ray" else "bulk"
        raise click.UsageError(
            f"{missing} is not installed; wanted: pip install 'toxic-tweet-tagger[{extra}]'"
        )
    from serving.bulk.inputs import BulkError
    from serving.bulk.run import Model, Options
    from serving.bulk.run import score as run

    settings = _settings(bundle)
    model = Model(
        bundle_folder(settings),
        Policy.load(settings.policy),
        settings.threads or cpu_limit(),
    )
    try:
        counts = run(Options(inputs, id=id_, format=format_, **given), model)
    except (BulkError, BundleError) as error:
        raise click.UsageError(str(error)) from None
    click.echo(
        f"{counts.scored:,} rows scored, {counts.fresh:,} of them in this run; "
        f"{counts.rejected:,} rejected",
        err=True,
    )
    if counts.rejected:
        click.echo(f"the rejected rows are in {given['out']}.rejected.jsonl", err=True)
        sys.exit(3)


@main.command()
@click.option(
    "--days", type=click.IntRange(1, 3650), default=7, show_default=True,
    help="How many of the last days to check.",
)  # fmt: skip
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for drift.html and drift.json; default: that of $TAGGER_DRIFT_REPORT.",
)
@click.option(
    "--set-reference",
    is_flag=True,
    help="Compare nothing; from now on these days are the reference, kept in the folder of --out.",
)
@BUNDLE
def drift(days: int, out: Path | None, set_reference: bool, bundle: Path | str | None) -> None:
    """Compare the prediction log with the reference that the bundle carries.

    Also estimates from the random reviews how good the model is on real traffic. The exit status
    is 0 without drift, 3 with drift, and 2 if it cannot be checked. docs/drift.md says more.
    """
    from serving.model_manager import bundle_folder

    if missing := _missing(() if set_reference else ("evidently",)):
        raise click.UsageError(
            f"{missing} is not installed; wanted: pip install 'toxic-tweet-tagger[drift]'"
        )
    from serving.drift import run, shown
    from serving.drift.columns import DriftError

    settings = _settings(bundle)
    asked = run.Check(settings, bundle_folder(settings), days, out or settings.drift_report.parent)
    try:
        if set_reference:
            click.echo(shown.reference(run.set_reference(asked), asked.out))
            return
        report = run.check(asked)
    except DriftError as error:
        raise click.UsageError(str(error)) from None
    click.echo(shown.report(report, asked.out))
    if report.drift:
        sys.exit(3)


def _missing(modules: Sequence[str]) -> str | None:
    """Return the first of the modules that is not installed."""
    from importlib.util import find_spec

    return next((name for name in modules if find_spec(name) is None), None)


@main.command()
@click.argument("text", metavar="TEXT | -")
@click.option(
    "--label",
    type=click.Choice((*LABELS, *ATTRIBUTES)),
    help="Label or attribute to explain; default: the predicted label.",
)
@click.option("--num-features", type=click.IntRange(1, 500), default=10, show_default=True)
@click.option("--num-samples", type=click.IntRange(16, 5000), default=1000, show_default=True)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, also on a terminal.")
@BUNDLE
def explain(text: str, as_json: bool, bundle: Path | str | None, **params: Any) -> None:
    """Show how much each word of TEXT speaks for a label or an attribute (LIME).

    With `-`, TEXT is the whole of standard input.
    """
    from serving.explain.explainer import Explainer, ExplainParams

    if text == "-":
        text = _decoded(_stdin().read().removeprefix(BOM_UTF8)).rstrip("\r\n")
    _checked([text])
    asked = ExplainParams(text=text, **params)
    with _local_engine(bundle) as local:
        explanation = local.run(Explainer().explain(local.engine, asked))
    console = None if as_json else _terminal()
    if console is None:
        click.echo(json.dumps(explanation.as_dict(), ensure_ascii=False))
    else:
        _print_explanation(console, text, explanation)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON, also on a terminal.")
@BUNDLE
def model(as_json: bool, bundle: Path | str | None) -> None:
    """Describe the model: manifest and model card."""
    from serving.bundle import read_manifest
    from serving.inference.policy import Policy
    from serving.model_manager import bundle_folder, describe

    settings = _settings(bundle)
    folder = bundle_folder(settings)
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
    type=click.Choice(SCOPES),
    help="Repeat for several; default: predict and feedback.",
)
def key_new(name: str, scopes: Sequence[Any]) -> None:
    """Create a key for the caller NAME; print it and its entry for TAGGER_API_KEYS.

    The service stores only the entry, which has the key's SHA-256. The key cannot be shown again.
    """
    try:
        secret, entry = new_key(name, dict.fromkeys(scopes))
    except ValueError:
        raise click.UsageError(
            f"NAME: got {name!r}, wanted 1 to 64 letters, digits, dots, dashes or underscores"
        ) from None
    click.echo(f"key              {secret}\nTAGGER_API_KEYS  {entry}")


@main.group()
def review() -> None:
    """Exchange what waits for reviewers with Label Studio.

    The commands use the log of the service: the settings MONGODB_URI or TAGGER_OUTBOX.
    """


@review.command("export")
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--limit", type=click.IntRange(1, 5000), default=500, show_default=True)
def review_export(out: Path, limit: int) -> None:
    """Write up to LIMIT items of the review queue to OUT, as JSON tasks of Label Studio.

    The order, and the share that is drawn at random, are those of GET /v1/review. What a reviewer
    has is left out. docs/review.md has the labelling configuration.
    """
    from serving.review.label_studio import tasks

    async def run(tools: "_ReviewTools") -> list[Any]:
        return tasks(await tools.queue.preview(limit))

    found = _with_review_tools(run)
    try:
        out.write_text(json.dumps(found, ensure_ascii=False, indent=1), encoding="utf-8")
    except OSError as error:
        raise click.UsageError(f"{out}: {error.strerror}") from None
    click.echo(f"{len(found):,} items", err=True)


@review.command("import")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), metavar="IN")
def review_import(file: Path) -> None:
    """Store the annotations of IN, an export of Label Studio in its format JSON, as reviews.

    Each annotator is a reviewer. Imported again, an annotation replaces itself. Nothing is stored
    if anything in IN is wrong.
    """
    from serving.review.label_studio import LabelStudioError, annotations_of
    from serving.review.service import import_annotations

    try:
        annotations = annotations_of(file.read_bytes())
    except OSError as error:
        raise click.UsageError(f"{file}: {error.strerror}") from None
    except LabelStudioError as error:
        raise click.UsageError(f"{file}: {error}") from None
    stored = _with_review_tools(lambda tools: import_annotations(tools.store, annotations))
    click.echo(f"{stored:,} reviews stored", err=True)
    if left_out := len(annotations) - stored:
        click.echo(f"{left_out:,} left out: their predictions are unknown or erased", err=True)


class _ReviewTools(NamedTuple):
    queue: "ReviewQueue"
    store: "ReviewStore"


def _with_review_tools(work: Callable[[_ReviewTools], Coroutine[Any, Any, Result]]) -> Result:
    """Return the result of `work` with the review queue of the settings."""
    from serving.app import create_log, create_review_queue, review_store
    from serving.prediction_log.log import LogError
    from serving.review.service import NoTextsError
    from serving.settings import load_settings

    settings = load_settings()
    if not settings.mongodb_uri and not settings.outbox.exists():
        raise click.UsageError(
            f"{settings.outbox}: no such outbox; set TAGGER_OUTBOX or MONGODB_URI"
        )
    log = create_log(settings)

    async def run() -> Result:
        # Without the relay, which is the service's.
        try:
            if log.archive is None:
                await log.outbox.start()
            tools = _ReviewTools(create_review_queue(settings, log), review_store(log))
            return await work(tools)
        finally:
            await (log.archive or log.outbox).close()

    try:
        return asyncio.run(run())
    except (LogError, NoTextsError) as error:
        raise click.UsageError(str(error)) from None


class _Silent:
    """An engine's observer that records nothing."""

    def tokenised(self, seconds: float) -> None:
        pass

    def cached(self, hits: int, misses: int) -> None:
        pass

    def batch(self, report: Any) -> None:
        pass


def _settings(bundle: Path | str | None) -> "Settings":
    from serving.settings import load_settings

    return load_settings(**({"bundle": bundle} if bundle else {}))


class _LocalEngine(NamedTuple):
    engine: "Engine"
    runner: asyncio.Runner

    def run(self, task: Coroutine[Any, Any, Result]) -> Result:
        return self.runner.run(task)


@contextmanager
def _local_engine(bundle: Path | str | None) -> Iterator[_LocalEngine]:
    """Start an engine like the service's; BundleError if this machine cannot serve the bundle.

    It is not one `asyncio.run`: standard input is read outside the event loop, where Ctrl-C ends
    the wait.
    """
    from serving.bundle import Bundle, BundleError
    from serving.inference.batcher import Capacity
    from serving.inference.cpu import cpu_limit
    from serving.inference.engine import Engine
    from serving.inference.policy import Policy
    from serving.model_manager import bundle_folder

    settings = _settings(bundle)
    threads = settings.threads or cpu_limit()
    folder = bundle_folder(settings)
    loaded = Bundle.load(folder, threads=1, parallel_threads=threads)
    policy = Policy.load(settings.policy)
    capacity = Capacity(threads, settings.batch_tokens, max_wait=inf)
    engine = Engine(loaded, policy, _Silent(), capacity, cache_size=0)
    with asyncio.Runner() as runner:
        try:
            runner.run(engine.start())
            if engine.not_ready:
                raise BundleError(f"{folder}: {engine.not_ready}")
            yield _LocalEngine(engine, runner)
        finally:
            runner.run(engine.close())


def _terminal() -> "Console | None":
    """Return a console if standard output is a terminal."""
    if sys.stdout is None:  # as `>&-` leaves it
        raise click.UsageError("standard output is closed")
    if not sys.stdout.isatty():
        return None
    from rich.console import Console

    return Console()


def _stdin() -> BufferedReader:
    if sys.stdin is None:  # as `<&-` leaves it
        raise click.UsageError("standard input is closed")
    return cast(BufferedReader, sys.stdin.buffer)


def _stdin_chunks() -> Iterator[list[str]]:
    """Yield the lines of standard input as they arrive: a slow pipe gets its answers at once.

    Blank lines are left out, and their number is told at the end. So are those that are not UTF-8,
    which then end the command with an error.
    """
    stdin, rest, number = _stdin(), b"", 0
    blank: list[int] = []
    wrong: list[str] = []
    while True:
        part = stdin.read1(READ_BYTES)
        *lines, rest = (rest + part).split(b"\n")
        if not part and rest:
            lines.append(rest)
        texts = []
        for line in lines:
            number += 1
            # The mark that Windows' editors put before a file.
            content = line.removeprefix(BOM_UTF8) if number == 1 else line
            try:
                text = content.decode()
            except UnicodeDecodeError as error:
                wrong.append(_not_utf8(number, error))
                continue
            if text.strip():
                texts.append(text.removesuffix("\r"))
            else:
                blank.append(number)
        yield from _chunks(texts)
        if not part:
            break
    if len(blank) == number:
        raise click.UsageError("standard input has no text")
    if blank:
        counted = "1 blank line" if len(blank) == 1 else f"{len(blank):,} blank lines"
        click.echo(f"left out {counted}, the first is line {blank[0]}", err=True)
    if wrong:
        counted = "1 line" if len(wrong) == 1 else f"{len(wrong):,} lines"
        raise click.UsageError(f"left out {counted} of {number:,}: {wrong[0]}")


def _decoded(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start)
        raise click.UsageError(_not_utf8(line + 1, error)) from None


def _not_utf8(number: int, error: UnicodeDecodeError) -> str:
    byte = error.start - error.object.rfind(b"\n", 0, error.start)
    return f"line {number}: byte {byte} is not UTF-8; convert the input to UTF-8"


def _checked(texts: Sequence[str]) -> Sequence[str]:
    if any(not text.strip() for text in texts):
        raise click.UsageError("TEXT must not be blank")
    if any("\ud800" <= character <= "\udfff" for text in texts for character in text):
        raise click.UsageError("TEXT must be valid UTF-8")
    return texts


def _chunks(texts: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(texts), CHUNK):
        yield list(texts[start : start + CHUNK])


def _printable(text: str) -> str:
    """Replace the characters that could control the terminal, one by one."""
    return "".join(c if c.isprintable() or c == JOINER else "·" for c in text)


def _table(texts: Sequence[str], predictions: Sequence["Prediction"], *, header: bool) -> "Table":
    from rich.table import Table
    from rich.text import Text

    # Fixed widths, so that the tables of a long input stand under one header.
    table = Table(box=None, pad_edge=False, show_header=header)
    table.add_column("label", width=9)
    for label in LABELS:
        table.add_column(label, justify="right", width=max(len(label), len("0.000")))
    table.add_column("toxicity", width=9)
    table.add_column("action", width=6)
    table.add_column("text", overflow="fold")
    for text, prediction in zip(texts, predictions, strict=True):
        table.add_row(
            Text(prediction.label, style=COLOURS[prediction.label]),
            *(f"{prediction.scores[label]:.3f}" for label in LABELS),
            prediction.toxicity,
            prediction.action,
            Text(_printable(text)).append(_attributes(prediction), style="dim"),
        )
    return table


def _attributes(prediction: "Prediction") -> str:
    """Return a line with the attributes that stand out, the most probable first."""
    # The column `toxicity` has the band of TOXICITY.
    learned = {name: p for name, p in prediction.attributes.items() if name != "TOXICITY"}
    shown = sorted(learned.items(), key=lambda pair: -pair[1])
    line = "  ".join(f"{name} {p:.3f}" for name, p in shown if p >= SHOWN_FROM)
    return f"\n{line}" if line else ""


def _print_explanation(console: "Console", text: str, explanation: "Explanation") -> None:
    """Print the text with its words coloured: red for the label, green against it."""
    from rich.text import Text

    label, shown = explanation.label, Text(_printable(text))
    largest = max((abs(weight.weight) for weight in explanation.weights), default=0.0) or 1.0
    rows: dict[str, Text] = {}  # of each distinct word
    for weight in explanation.weights:
        style = _shade(weight.weight / largest)
        shown.stylize(style, weight.word.begin, weight.word.end)
        word = Text(_printable(weight.word.text), style)
        rows.setdefault(weight.word.key, Text(f"  {weight.weight:+.3f}  ").append_text(word))
    console.print(f"{label}: p = {explanation.scores[label]:.3f}", highlight=False)
    console.print(shown, "", *rows.values(), sep="\n")
    console.print(f"\nred: for {label}; green: against it", highlight=False)


def _shade(strength: float) -> str:
    """Return the style of a weight from -1 (green) through 0 (white) to 1 (red)."""
    pale = round(255 * (1 - abs(strength)))
    red, green = (255, pale) if strength > 0 else (pale, 255)
    return f"black on rgb({red},{green},{pale})"

"""A bulk run: it plans, scores what has no part yet, and finishes the output.

    inputs ──> plan ──> chunks without a part ──> local | ray ──> parts ──> OUT, OUT.rejected.jsonl

A run that was killed reads its inputs again and skips chunks that have a part; reading is hundreds
of times as fast as scoring. The digest in the part shows whether the rows are still the same.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from serving.bulk.inputs import (
    STDIN,
    BulkError,
    Chunk,
    Layout,
    Source,
    Stdin,
    find_sources,
    probe,
    read_chunks,
)
from serving.bulk.output import Output
from serving.bulk.progress import Progress
from serving.bulk.scoring import Scorer, output_schema
from serving.bundle import read_manifest
from serving.inference.policy import Policy

PART_ROWS = 4096


@dataclass(frozen=True, slots=True)
class Options:
    """What a user asks for; see `tweet-tagger score --help`."""

    inputs: Sequence[str]
    out: Path
    text: str = "text"
    id: str | None = None
    format: str | None = None
    to: str | None = None
    resume: bool = False
    overwrite: bool = False
    ray: str | None = None
    part_rows: int = PART_ROWS


@dataclass(frozen=True, slots=True)
class Model:
    """What scores: a bundle's folder, a policy, and the number of threads on this machine."""

    folder: Path
    policy: Policy
    threads: int


@dataclass(frozen=True, slots=True)
class Plan:
    """A run whose inputs and output have been checked."""

    sources: list[Source]
    layout: Layout
    output: Output
    stdin: Stdin
    part_rows: int


@dataclass(frozen=True, slots=True)
class Counts:
    """The rows of the whole output, and how many of them this run has scored."""

    scored: int
    rejected: int
    fresh: int


def score(options: Options, model: Model) -> Counts:
    """Score the inputs into the output.

    Raises:
        BulkError: see its message; most are found before any row is scored.
        BundleError: the bundle cannot be loaded.
    """
    if options.ray and STDIN in options.inputs:
        raise BulkError("-: standard input cannot be read on a Ray cluster; save it as a file")
    if options.resume and options.overwrite:
        raise BulkError("got --resume and --overwrite, wanted one of them")
    with closing(Output(options.out, options.to)) as output:
        return _score(options, model, output)


def _score(options: Options, model: Model, output: Output) -> Counts:
    stdin = Stdin()
    sources = find_sources(options.inputs, options.format, options.out)
    layout = probe(sources, options.text, options.id, stdin)
    output_schema(layout)
    run = _settings(options, sources, layout, output, model)
    if done := output.open(run, resume=options.resume, overwrite=options.overwrite):
        return Counts(*done, 0)
    plan = Plan(sources, layout, output, stdin, options.part_rows)
    with Progress(sum(source.size for source in sources)) as progress:
        if options.ray:
            from serving.bulk.on_ray import score_on_ray

            score_on_ray(plan, model, options.ray, progress)
        else:
            score_here(plan, model, progress)
    return Counts(*output.finish(run), progress.rows)


def _settings(
    options: Options, sources: Sequence[Source], layout: Layout, output: Output, model: Model
) -> dict[str, Any]:
    """Return what a resumed run must have in common with the one that began."""
    return {
        "model": read_manifest(model.folder).version,
        "policy": model.policy.model_dump(mode="json"),
        "input": [asdict(source) for source in sources],
        "--text": options.text,
        "--id": options.id,
        "--to": output.format,
        "--part-rows": options.part_rows,
        "columns": {field.name: str(field.type) for field in layout.schema},
    }


def chunks(plan: Plan, progress: Progress) -> Iterator[Chunk]:
    """Read all chunks and yield those that have no part.

    Raises:
        BulkError: the rows of a part are not those of its chunk any more.
    """
    for number, source in enumerate(plan.sources):
        digests = plan.output.digests(number)
        for chunk in read_chunks(source, number, plan.layout, plan.part_rows, plan.stdin):
            digest = digests.pop(chunk.index, None)
            if digest is None:
                yield chunk
            else:
                check_digest(source, chunk, digest)
                progress.skip(number, chunk.read * source.size)
        if digests:  # standard input that is shorter than it was
            raise _changed(source)


def check_digest(source: Source, chunk: Chunk, digest: str) -> None:
    """Raise BulkError if a part was made from other rows than its chunk has now."""
    if chunk.digest != digest:
        raise _changed(source)


def _changed(source: Source) -> BulkError:
    return BulkError(
        f"--resume: {source.name} has other rows than when the run began; wanted --overwrite"
    )


def score_here(plan: Plan, model: Model, progress: Progress) -> None:
    """Score in this process: while the threads infer a chunk, the next is read and tokenised."""
    with closing(Scorer(model.folder, model.policy, plan.layout, model.threads)) as scorer:
        waiting = deque[tuple[Chunk, Any]]()

        def finish() -> None:
            chunk, submitted = waiting.popleft()
            plan.output.write_part(chunk.file, chunk.index, scorer.finish(submitted))
            size = plan.sources[chunk.file].size
            progress.advance(chunk.file, chunk.read * size, chunk.table.num_rows)

        for chunk in chunks(plan, progress):
            waiting.append((chunk, scorer.submit(chunk)))
            if len(waiting) > 1:
                finish()
        while waiting:
            finish()

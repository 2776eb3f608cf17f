"""A bulk run on Ray: the same chunks, the same scoring function, the same part files.

    read task of a file ──> chunks as bytes ──> map_batches: a pool of actors, a bundle each
        ──> part files as bytes ──> this process writes them

A row of Ray's data set is a whole chunk, so Ray can neither split nor join chunks. Read tasks run
on the cluster, where each node must be able to open the inputs; the bundle comes from this process.
If a node is lost, Ray reads and scores its chunks again. Only this process writes parts, by name,
so no row is there twice.

An actor asks for a whole CPU, and a read task for none. If reading needed a CPU, the actors could
fill a small cluster, so that nothing would be read and nothing ever scored.
"""

import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Datasource, ReadTask
from ray.data.block import BlockMetadata
from ray.exceptions import RayError

from serving import __version__
from serving.bulk.inputs import BulkError, Chunk, Layout, Rejected, Source, Stdin, read_chunks
from serving.bulk.progress import Progress
from serving.bulk.run import Model, Plan, check_digest
from serving.bulk.scoring import META, Scorer
from serving.bundle import BundleError
from serving.bundle.manifest import MANIFEST, SEALED
from serving.inference.policy import Policy

# A chunk on its way: rows, read and digest are of the chunk, content is the chunk itself, and after
# the actor the part. A row with an error ends the run. No content: there is a part already.
COLUMNS = pa.schema(
    [
        ("file", pa.int64()),
        ("index", pa.int64()),
        ("rows", pa.int64()),
        ("read", pa.float64()),
        ("error", pa.string()),
        ("content", pa.large_binary()),
    ]
)
READERS = 8  # read tasks at a time
Digests = Mapping[int, str]  # of a file's parts, by the chunk's index


def score_on_ray(plan: Plan, model: Model, address: str, progress: Progress) -> None:
    """Score a plan on a cluster.

    Args:
        plan: what to score.
        model: with what; its threads are the CPUs of a cluster that is started here.
        address: `local` starts a cluster on this machine, `auto` takes the running one, and
            anything else is the address of one.
        progress: is told of each part.

    Raises:
        BulkError: the cluster cannot be reached, or the run failed on it.
    """
    _connect(address, model.threads)
    try:
        for row in _rows(_data_set(plan, model)):
            _take(row, plan, progress)
    except RayError as error:
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise BulkError(
            f"--ray {address}: {lines[-1].strip()} (each node needs "
            f"'toxic-tweet-tagger[scale]' {__version__})"
        ) from None
    finally:
        ray.shutdown()


def _connect(address: str, cpus: int) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address == "local":
        # Ray's workers have niceness 15: beside any other work they would get next to nothing.
        os.environ.setdefault("RAY_worker_niceness", "0")
    local: dict[str, Any] = {"num_cpus": cpus, "include_dashboard": False}
    try:
        ray.init(
            address,
            logging_level=logging.ERROR,
            log_to_driver=False,
            **(local if address == "local" else {}),
        )
    except Exception as error:  # Ray raises bare ones, too
        line = str(error).split("\n", maxsplit=1)[0]
        raise BulkError(f"--ray {address}: no cluster could be reached: {line}") from None


def _data_set(plan: Plan, model: Model) -> "ray.data.Dataset":
    context = DataContext.get_current()
    context.enable_progress_bars = False
    # Otherwise a read task collects 128 MB of chunks for one actor, while the others wait.
    context.target_max_block_size = 1
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    files = {name: (model.folder / name).read_bytes() for name in (*SEALED, MANIFEST)}
    cpus = int(ray.cluster_resources().get("CPU", 0))
    if not cpus:
        raise BulkError("--ray: got a cluster without a whole CPU, wanted one or more")
    return ray.data.read_datasource(
        _Files(plan),
        num_cpus=0,
        concurrency=READERS,
        override_num_blocks=len(plan.sources),
    ).map_batches(
        _Actor,
        fn_constructor_args=(ray.put(files), model.policy, plan.layout, __version__),
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=1,
        # Not a fixed size: what a lost node had cannot be replaced, and a cluster may grow.
        compute=ActorPoolStrategy(min_size=1, initial_size=cpus),
    )


def _rows(data_set: "ray.data.Dataset") -> Iterator[dict[str, Any]]:
    batches = data_set.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
    for batch in batches:
        yield from batch.to_pylist()


def _take(row: dict[str, Any], plan: Plan, progress: Progress) -> None:
    if row["error"]:
        raise BulkError(row["error"])
    file, index, done = row["file"], row["index"], row["read"] * plan.sources[row["file"]].size
    if row["content"] is None:
        progress.skip(file, done)
        return
    plan.output.write_part(file, index, row["content"])
    progress.advance(file, done, row["rows"])


class _Files(Datasource):  # type: ignore[misc]
    """A read task for each file of a plan."""

    def __init__(self, plan: Plan) -> None:
        self._tasks: list[Callable[[], Iterator[pa.Table]]] = [
            partial(_read, source, i, plan.layout, plan.part_rows, plan.output.digests(i))
            for i, source in enumerate(plan.sources)
        ]
        self._size = sum(source.size for source in plan.sources)

    def get_name(self) -> str:
        return "TweetTaggerInputs"

    def estimate_inmemory_data_size(self) -> int | None:
        return self._size or None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        unknown = BlockMetadata(None, None, None)
        return [ReadTask(task, unknown, COLUMNS) for task in self._tasks]


def _read(
    source: Source, file: int, layout: Layout, part_rows: int, digests: Digests
) -> Iterator[pa.Table]:
    """Yield each chunk of a file as a table of one row; this runs on the cluster."""
    try:
        for chunk in read_chunks(source, file, layout, part_rows, Stdin()):
            digest = digests.get(chunk.index)
            if digest:
                check_digest(source, chunk, digest)
            yield _row(chunk, None if digest else _packed(chunk))
    except BulkError as error:
        yield _table([file, 0, 0, 0.0, str(error), None])


def _row(chunk: Chunk, content: bytes | None) -> pa.Table:
    return _table([chunk.file, chunk.index, chunk.table.num_rows, chunk.read, None, content])


def _table(values: list[Any]) -> pa.Table:
    return pa.table([[value] for value in values], schema=COLUMNS)


def _packed(chunk: Chunk) -> bytes:
    figures = json.dumps({"digest": chunk.digest, "rejected": chunk.rejected}, default=str)
    table = chunk.table.replace_schema_metadata({META: figures.encode()})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def _unpacked(row: dict[str, Any]) -> Chunk:
    with pa.ipc.open_stream(row["content"]) as reader:
        table = reader.read_all()
    figures = json.loads(table.schema.metadata[META])
    rejected = [Rejected(*each) for each in figures["rejected"]]
    table = table.replace_schema_metadata(None)
    return Chunk(row["file"], row["index"], table, rejected, figures["digest"], row["read"])


class _Actor:
    """A scorer on one CPU of the cluster."""

    def __init__(
        self, files: "ray.ObjectRef", policy: Policy, layout: Layout, version: str
    ) -> None:
        self._error: str | None = None
        node = ray.util.get_node_ip_address()
        if version != __version__:
            self._error = f"node {node}: got toxic-tweet-tagger {__version__}, wanted {version}"
            return
        with tempfile.TemporaryDirectory(prefix="tweet-tagger-") as name:
            for file, content in ray.get(files).items():
                (Path(name) / file).write_bytes(content)
            try:
                self._scorer = Scorer(Path(name), policy, layout, threads=1)
            except (BundleError, BulkError) as error:
                # An exception would make Ray start the actor again, for ever.
                self._error = f"node {node}: {error}"

    def __call__(self, batch: pa.Table) -> pa.Table:
        return pa.concat_tables([self._scored(row) for row in batch.to_pylist()])

    def _scored(self, row: dict[str, Any]) -> pa.Table:
        row["error"] = row["error"] or self._error
        if row["content"] is not None and not row["error"]:
            row["content"] = self._scorer.part(_unpacked(row))
        return _table(list(row.values()))

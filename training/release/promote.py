"""After the pipeline: may models/candidate replace production? If so, it does.

    python -m training.release.promote             evaluate the gates; if they pass, promote
    python -m training.release.promote --dry-run   evaluate the gates only
    python -m training.release.promote --rollback  exchange production and previous

Both bundles score the same rows and the same suite in this run, through the code that serves them.
reports/gates.md has the results. Exit 1 if a gate fails.
"""

import argparse
import logging
import tempfile
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd

from serving.bundle import MANIFEST, SCHEMA_VERSION, SEALED, Bundle, BundleError
from serving.drift.columns import REFERENCE
from training.config import EvaluateParams, RegisterParams, load_file, load_params, load_sources
from training.errors import ArtifactError, RefusedError, run_stage
from training.evaluation.behaviour import load_suite
from training.evaluation.measure import (
    ALL_LABELS,
    Measurement,
    compare_with_fp32,
    evaluation_rows,
    figures,
    measure,
    megabytes,
)
from training.evaluation.metrics import class_names, milliseconds
from training.files import atomic_write, flatten, read_json, sha256
from training.paths import CANDIDATE, FP32, MODELS, PROCESSED, REPORTS, split_file
from training.pipeline import run_lock
from training.release import releases
from training.release.gates import Gates, Report, SourceRows, evaluate_gates, refusals
from training.release.gates_report import markdown
from training.tracking import connect

GATES = Path("configs/gates.yaml")
GATES_REPORT = REPORTS / "gates.md"
REFERENCE_COLUMNS = ["text", "labels", "source"]
ROUNDS = 3


def load_bundle(folder: Path) -> Bundle:
    """Return a bundle; ArtifactError if it or its golden scores do not load on this machine."""
    try:
        # With one thread, other load on the machine disturbs the timings less.
        bundle = Bundle.load(folder, threads=1)
    except BundleError as error:
        raise ArtifactError(str(error)) from None
    if problem := bundle.golden_problem():
        raise ArtifactError(f"{folder}: {problem}")
    return bundle


def check_origin(bundle: Bundle) -> None:
    """Check that the data and the metrics here are the candidate's own.

    Raises:
        ArtifactError: they are missing, or of another candidate.
    """
    try:
        digest = "-".join(sha256(split_file(split))[:16] for split in ("train", "val"))
    except FileNotFoundError as error:
        raise ArtifactError(f"{error.filename}: missing; run `make train`") from None
    if digest != bundle.manifest.data_sha:
        raise ArtifactError(
            f"{PROCESSED}: not the data of {CANDIDATE} ({bundle.manifest.data_sha}); "
            "run `make train`"
        )
    metrics = CANDIDATE / "metrics.json"
    if (version := read_json(metrics)["version"]) != bundle.manifest.version:
        raise ArtifactError(f"{metrics}: got {version}, wanted {bundle.manifest.version}")


def source_rows(bundle: Bundle, measured: Measurement) -> dict[str, SourceRows]:
    """Return the rows of the reference and of each external source, by its classes."""
    normalize = bundle.tokenizer.normalizer.normalize_str
    texts = np.array([normalize(text) for text in measured.texts], object)
    schemes = measured.external | {measured.reference: ALL_LABELS}
    return {
        name: SourceRows(
            tuple(class_names(class_of)),
            class_of[measured.truth[measured.source == name]],
            class_of[measured.chosen[measured.source == name]],
            tuple(texts[measured.source == name]),
        )
        for name, class_of in schemes.items()
    }


def reports(candidate: Bundle, production: Bundle | None) -> tuple[Report, Report | None]:
    """Measure the candidate and production on the same rows; their timings take turns."""
    rows, suite, sources = evaluation_rows(), load_suite(), load_sources()
    bundles = {"candidate": candidate} | ({"production": production} if production else {})
    timed = rows["text"][rows["in_test"]].head(load_params("evaluate", EvaluateParams).latency_rows)
    scorers = {name: bundle.score for name, bundle in bundles.items()}
    times = milliseconds(scorers, timed.tolist(), rounds=ROUNDS)
    done = {}
    for name, bundle in bundles.items():
        measured = measure(bundle, rows, sources, suite)
        metrics = figures(measured, draws=0) | {
            "milliseconds_a_text": {"int8": times[name]},
            "megabytes": megabytes(MODELS / name),
        }
        if name == "candidate" and FP32.is_file():
            parent = Bundle(bundle.manifest, bundle.tokenizer, FP32.read_bytes(), threads=1)
            metrics["int8_against_fp32"] = compare_with_fp32(bundle, parent, measured, draws=0)
        done[name] = Report(
            version=bundle.manifest.version,
            data=bundle.manifest.data,
            reference=measured.reference,
            sources=source_rows(bundle, measured),
            behaviour=measured.behaviour.capabilities,
            figures=flatten(metrics),
            rankings={
                f"attributes.{source}.{name}.roc_auc": ranking
                for source, attributes in measured.rankings().items()
                for name, ranking in attributes.items()
            },
        )
    return done["candidate"], done.get("production")


def point_aliases(model: str, state: releases.State) -> None:
    """Make MLflow's aliases agree with the state; a bundle unknown to MLflow gets none."""
    connect()
    client = mlflow.MlflowClient()
    for alias, bundle in (("production", state.production), ("previous", state.previous)):
        known = [
            int(version.version)
            for version in client.search_model_versions(f"name = '{model}'")
            if bundle is not None and version.tags.get("bundle.version") == bundle
        ]
        if known:
            client.set_registered_model_alias(model, alias, str(max(known)))
            continue
        if bundle is not None:
            print(f"warning: MLflow has no version of {model} with bundle {bundle}: no {alias}")
        if client.search_registered_models(f"name = '{model}'"):
            client.delete_registered_model_alias(model, alias)


def apply_state(state: releases.State) -> None:
    """Make state, links and aliases agree, in this order; a second call changes nothing."""
    releases.write_state(state)
    releases.sync_links(state)
    point_aliases(load_params("register", RegisterParams).model, state)
    releases.write_state(state._replace(pending=False))


def promote(*, dry_run: bool) -> None:
    """Evaluate the gates for models/candidate and, unless `dry_run`, put it into production.

    Raises:
        RefusedError: a gate failed. Production has not changed.
    """
    gates = load_file(GATES, Gates)
    candidate = load_bundle(CANDIDATE)
    check_origin(candidate)
    state, version = releases.read_state(), candidate.manifest.version
    if version == state.production:
        if not dry_run:
            apply_state(state)
        _write_report(f"# Gates: {version} is in production already\n")
        return
    _check_gates(candidate, state, gates)
    if dry_run:
        print(f"{version} would be promoted")
        return
    _add_release(version)
    state = state.promote(version)
    apply_state(state)
    print(f"{version} is in production; before it: {state.previous or 'nothing'}")


def _check_gates(candidate: Bundle, state: releases.State, gates: Gates) -> None:
    """Write and print the gates' report; RefusedError if a gate failed."""
    production = _load_production() if state.production else None
    ours, theirs = reports(candidate, production)
    results = evaluate_gates(ours, theirs, gates)
    _write_report(markdown(ours, theirs, results))
    if failed := refusals(results):
        reasons = "; ".join(map(str, failed[:3])) + ("; …" if len(failed) > 3 else "")
        raise RefusedError(
            f"{ours.version} failed {len(failed)} of {len(results)} gates, see {GATES_REPORT}: "
            f"{reasons}"
        )


def _write_report(page: str) -> None:
    with atomic_write(GATES_REPORT) as scratch:
        scratch.write_text(page, encoding="utf-8")
    print(page)


def _load_production() -> Bundle | None:
    """Return the bundle in production; None if its schema is too old to be scored and served.

    A damaged bundle is an error instead: without production, no gate compares with it.
    """
    manifest = releases.PRODUCTION / MANIFEST
    content = read_json(manifest)
    schema = content.get("schema_version") if isinstance(content, dict) else None
    if isinstance(schema, int) and schema < SCHEMA_VERSION:
        print(
            f"warning: {manifest}: got schema {schema}, wanted {SCHEMA_VERSION}: "
            "the candidate is compared with no production model"
        )
        return None
    return load_bundle(releases.PRODUCTION)


def _add_release(version: str) -> None:
    names = [*SEALED, MANIFEST, "metrics.json", "MODEL_CARD.md"]
    if (CANDIDATE / REFERENCE).is_file():  # a candidate of before 0.5 has none
        names.append(REFERENCE)
    files = {name: CANDIDATE / name for name in names}
    with tempfile.TemporaryDirectory(dir=MODELS) as scratch:
        # Only the columns in which `validate` looks for drift; the file never leaves this machine.
        reference = Path(scratch, "reference.parquet")
        # Without the texts of a log: what its next reading no longer has must not stay here.
        logs = [name for name, source in load_sources().items() if source.kind == "log"]
        learned = pd.read_parquet(split_file("train"))
        learned = learned[~learned["source"].isin(logs)]
        learned[REFERENCE_COLUMNS].to_parquet(reference)
        releases.add(version, files | {reference.name: reference})


def roll_back() -> None:
    """Exchange production and previous; ArtifactError if there is no complete previous release."""
    state = releases.read_state()
    if state.pending:
        print("an earlier change was interrupted: finishing it instead of rolling back")
    else:
        state = state.roll_back()
        load_bundle(releases.RELEASES / str(state.production))
    apply_state(state)
    print(f"{state.production} is in production; before it: {state.previous or 'nothing'}")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--rollback", action="store_true")
    options = parser.parse_args()
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    # Not beside a `make train`, which would change the candidate meanwhile.
    with run_lock("`make rollback`" if options.rollback else "`make promote`"):
        if options.rollback:
            roll_back()
        else:
            promote(dry_run=options.dry_run)


if __name__ == "__main__":
    run_stage(main)

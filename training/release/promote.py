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
from typing import Any

import mlflow
import numpy as np
import pandas as pd

from serving.bundle import LABELS, MANIFEST, SEALED, Bundle, BundleError
from training.config import EvaluateParams, RegisterParams, load_file, load_params, load_sources
from training.errors import ArtifactError, RefusedError, run_stage
from training.evaluation.behaviour import Capability, group_rates, load_suite, outcomes
from training.evaluation.measure import (
    ALL_LABELS,
    Measurement,
    compare_with_fp32,
    evaluation_rows,
    measure,
)
from training.evaluation.metrics import calibration_error, class_names, milliseconds
from training.files import atomic_write, read_json, sha256
from training.paths import CANDIDATE, FP32, MODELS, PROCESSED, REPORTS, split_file
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
    distance, limit = bundle.golden_error(), bundle.manifest.golden_tolerance
    if distance > limit:
        raise ArtifactError(f"{folder}: golden scores differ by {distance:.2g}, wanted {limit:.2g}")
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


def report(bundle: Bundle, measured: Measurement, suite: list[Capability]) -> dict[str, Any]:
    """Return a report's fields, except those that need both bundles or the files."""
    reference = measured.source == measured.reference
    confidence = measured.scores[reference].max(axis=1)
    correct = measured.scores[reference].argmax(axis=1) == measured.truth[reference]
    suite_scores = bundle.score([text for capability in suite for text in capability.texts])
    labels = [LABELS[i] for i in bundle.decide(suite_scores)]
    rates = group_rates(suite, labels).values()
    return {
        "version": bundle.manifest.version,
        "data": bundle.manifest.data,
        "reference": measured.reference,
        "sources": source_rows(bundle, measured),
        "ece": calibration_error(confidence, correct),
        "identity_gap": measured.identity["gap"],
        "template_gap": max(rates, default=0.0) - min(rates, default=0.0),
        "batch_changes": int(measured.batch["label_changes"]),
        "batch_difference": measured.batch["max_abs_difference"],
        "behaviour": outcomes(suite, labels),
    }


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


def megabytes(folder: Path) -> float:
    """Return the size of a bundle's own files."""
    return sum((folder / name).stat().st_size for name in (*SEALED, MANIFEST)) / 1e6


def reports(candidate: Bundle, production: Bundle | None) -> tuple[Report, Report | None]:
    """Measure the candidate and production on the same rows; their timings take turns."""
    rows, suite, sources = evaluation_rows(), load_suite(), load_sources()
    bundles = {"candidate": candidate} | ({"production": production} if production else {})
    timed = rows["text"][rows["in_test"]].head(load_params("evaluate", EvaluateParams).latency_rows)
    scorers = {name: bundle.score for name, bundle in bundles.items()}
    times = milliseconds(scorers, timed.tolist(), rounds=ROUNDS)
    measured = {name: measure(bundle, rows, sources) for name, bundle in bundles.items()}
    fields = {
        name: report(bundle, measured[name], suite)
        | {"p95_ms": times[name]["p95"], "megabytes": megabytes(MODELS / name)}
        for name, bundle in bundles.items()
    }
    if FP32.is_file():
        reference = measured["candidate"].source == measured["candidate"].reference
        parent = Bundle(candidate.manifest, candidate.tokenizer, FP32.read_bytes(), threads=1)
        changed = compare_with_fp32(candidate, parent, measured["candidate"], reference)
        fields["candidate"] |= {
            "fp32_loss": -changed["macro_f1_difference"],
            "fp32_changes": changed["label_changes"] / reference.sum(),
        }
    done = {name: Report(**values) for name, values in fields.items()}
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
        apply_state(state)
        print(f"{version} is in production already")
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
    production = load_bundle(releases.PRODUCTION) if state.production else None
    ours, theirs = reports(candidate, production)
    results = evaluate_gates(ours, theirs, gates)
    page = markdown(ours, theirs, results)
    with atomic_write(GATES_REPORT) as scratch:
        scratch.write_text(page, encoding="utf-8")
    print(page)
    if failed := refusals(results):
        reasons = "; ".join(map(str, failed[:3])) + ("; …" if len(failed) > 3 else "")
        raise RefusedError(
            f"{ours.version} failed {len(failed)} of {len(results)} gates, see {GATES_REPORT}: "
            f"{reasons}"
        )


def _add_release(version: str) -> None:
    names = (*SEALED, MANIFEST, "metrics.json", "MODEL_CARD.md")
    files = {name: CANDIDATE / name for name in names}
    with tempfile.TemporaryDirectory(dir=MODELS) as scratch:
        # Only the columns in which `validate` looks for drift; the file never leaves this machine.
        reference = Path(scratch, "reference.parquet")
        pd.read_parquet(split_file("train"))[REFERENCE_COLUMNS].to_parquet(reference)
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
    if options.rollback:
        roll_back()
    else:
        promote(dry_run=options.dry_run)


if __name__ == "__main__":
    run_stage(main)

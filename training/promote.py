"""After the pipeline: may models/candidate take production's place? If so, it does.

    python -m training.promote             judge; on success move links and MLflow's aliases
    python -m training.promote --dry-run   judge only
    python -m training.promote --rollback  exchange production and previous

Both bundles score the same test and held-out rows and the same suite, here and now, through the
code that serves them; `gates` judges; reports/gates.md says why. Exit 1 on refusal.
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
from training import releases
from training.behaviour import Capability, group_rates, load_suite, outcomes
from training.config import EvaluateParams, RegisterParams, load_file, load_params, load_sources
from training.errors import ArtifactError, RefusedError, run_stage
from training.files import read_json, sha256, whole
from training.gates import Corpus, Gates, Report, judge, refusals
from training.gates_page import markdown
from training.labels import classes_by_source, label_mask
from training.measure import (
    batch_invariance,
    calibration_error,
    compare,
    identity_gap,
    milliseconds,
)
from training.tracking import connect

CANDIDATE = Path("models/candidate")
FP32 = Path("models/fp32.onnx")
PROCESSED = Path("data/processed")
GATES = Path("configs/gates.yaml")
PAGE = Path("reports/gates.md")
REFERENCE_COLUMNS = ["text", "labels", "source"]
ROUNDS = 3


def load_bundle(folder: Path) -> Bundle:
    """Return a bundle whose golden scores this machine reproduces."""
    try:
        # One thread: two that wait for each other would time the machine's other work.
        bundle = Bundle.load(folder, threads=1)
    except BundleError as error:
        raise ArtifactError(str(error)) from None
    found, limit = bundle.golden_error(), bundle.manifest.golden_tolerance
    if found > limit:
        raise ArtifactError(f"{folder}: golden scores differ by {found:.2g}, wanted {limit:.2g}")
    return bundle


def check_origin(bundle: Bundle) -> None:
    """Refuse to judge a candidate on other data, or with another's metrics, than its own."""
    files = [PROCESSED / f"{split}.parquet" for split in ("train", "val")]
    try:
        digest = "-".join(sha256(path)[:16] for path in files)
    except FileNotFoundError as error:
        raise ArtifactError(f"{error.filename}: missing; run `make train`") from None
    if digest != bundle.manifest.data_sha:
        raise ArtifactError(
            f"{PROCESSED}: not what {CANDIDATE} learned from ({bundle.manifest.data_sha}); "
            "run `make train`"
        )
    metrics = CANDIDATE / "metrics.json"
    if (found := read_json(metrics)["version"]) != bundle.manifest.version:
        raise ArtifactError(f"{metrics}: of {found}, wanted {bundle.manifest.version}")


def measure(bundle: Bundle, rows: pd.DataFrame, suite: list[Capability]) -> dict[str, Any]:
    """Return a report's fields, but for those that need both bundles or the files.

    Args:
        bundle: the model.
        rows: test and held-out rows, with the column `tested`: whether of the test.
        suite: the behavioural suite.
    """
    texts, allowed = rows["text"].tolist(), label_mask(rows["labels"])
    scores = bundle.score(texts)
    chosen = bundle.decide(scores)
    source, tested = rows["source"].to_numpy(), rows["tested"].to_numpy()
    masked = np.array([bundle.tokenizer.normalizer.normalize_str(text) for text in texts], object)
    sources = load_sources()
    reference = next(name for name in sources if (tested & (source == name)).any())
    schemes = classes_by_source(sources, source[~tested]) | {reference: np.arange(len(LABELS))}
    corpora = {}
    for name, class_of in schemes.items():
        of = source == name
        names = [", ".join(np.array(LABELS)[class_of == at]) for at in range(class_of.max() + 1)]
        corpora[name] = Corpus(
            tuple(names),
            class_of[allowed[of].argmax(axis=1)],
            class_of[chosen[of]],
            tuple(masked[of]),
        )
    of = source == reference
    right = scores[of].argmax(axis=1) == allowed[of].argmax(axis=1)
    asked = bundle.score([text for capability in suite for text in capability.texts])
    labels = [LABELS[at] for at in bundle.decide(asked)]
    rates = group_rates(suite, labels).values()
    batched = batch_invariance(bundle, rows["text"][tested].tolist())
    return {
        "version": bundle.manifest.version,
        "data": bundle.manifest.data,
        "reference": reference,
        "corpora": corpora,
        "ece": calibration_error(scores[of].max(axis=1), right),
        "identity_gap": identity_gap(texts, chosen, allowed)["gap"],
        "template_gap": max(rates, default=0.0) - min(rates, default=0.0),
        "batch_changes": int(batched["label_changes"]),
        "batch_difference": batched["max_abs_difference"],
        "behaviour": outcomes(suite, labels),
    }


def against_fp32(bundle: Bundle, reference: Corpus, texts: list[str]) -> dict[str, float]:
    """Return what int8 costs: macro-F1 lost and share of labels changed."""
    parent = Bundle(bundle.manifest, bundle.tokenizer, FP32.read_bytes(), threads=1)
    exact = parent.score(texts)
    changed = compare(bundle, bundle.score(texts), exact)["label_changes"]
    unquantised = Corpus(reference.classes, reference.truth, parent.decide(exact), reference.texts)
    return {
        "fp32_loss": unquantised.macro_f1() - reference.macro_f1(),
        "fp32_changes": changed / len(texts),
    }


def megabytes(folder: Path) -> float:
    """Return the size of a bundle's own files."""
    return sum((folder / name).stat().st_size for name in (*SEALED, MANIFEST)) / 1e6


def reports(candidate: Bundle, production: Bundle | None) -> tuple[Report, Report | None]:
    """Measure the candidate, and production on the same rows, their times taken in turns."""
    splits = {
        name: pd.read_parquet(PROCESSED / f"{name}.parquet").assign(tested=name == "test")
        for name in ("test", "heldout")
    }
    rows = pd.concat(splits.values(), ignore_index=True)
    suite = load_suite()
    bundles = {"candidate": candidate} | ({"production": production} if production else {})
    timed = rows["text"][rows["tested"]].head(load_params("evaluate", EvaluateParams).latency_rows)
    scorers = {name: bundle.score for name, bundle in bundles.items()}
    times = milliseconds(scorers, timed.tolist(), rounds=ROUNDS)
    fields = {
        name: measure(bundle, rows, suite)
        | {"p95_ms": times[name]["p95"], "megabytes": megabytes(Path("models") / name)}
        for name, bundle in bundles.items()
    }
    reference = fields["candidate"]["reference"]
    if FP32.is_file():
        texts = rows["text"][rows["source"] == reference].tolist()
        fields["candidate"] |= against_fp32(
            candidate, fields["candidate"]["corpora"][reference], texts
        )
    measured = {name: Report(**found) for name, found in fields.items()}
    return measured["candidate"], measured.get("production")


def point_aliases(model: str, state: releases.State) -> None:
    """Make MLflow's aliases agree with the folders; a bundle that it does not know has none."""
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


def carry_out(state: releases.State) -> None:
    """Make truth, links and aliases say `state`, in this order; done again, it changes nothing."""
    releases.write_state(state)
    releases.settle(state)
    point_aliases(load_params("register", RegisterParams).model, state)
    releases.write_state(state._replace(pending=False))


def promote(*, dry_run: bool) -> None:
    """Judge models/candidate and, unless `dry_run`, put it into production.

    Raises:
        RefusedError: a gate refused it. Nothing has moved.
    """
    gates = load_file(GATES, Gates)
    candidate = load_bundle(CANDIDATE)
    check_origin(candidate)
    state, version = releases.read_state(), candidate.manifest.version
    if version == state.production:
        carry_out(state)
        print(f"{version} is in production already")
        return
    production = load_bundle(releases.PRODUCTION) if state.production else None
    judged, against = reports(candidate, production)
    verdicts = judge(judged, against, gates)
    page = markdown(judged, against, verdicts)
    with whole(PAGE) as scratch:
        scratch.write_text(page, encoding="utf-8")
    print(page)
    if refused := refusals(verdicts):
        reasons = "; ".join(map(str, refused[:3])) + ("; …" if len(refused) > 3 else "")
        raise RefusedError(f"{version} is refused by {len(refused)} gates, see {PAGE}: {reasons}")
    if dry_run:
        print(f"{version} would be promoted")
        return
    files = {
        name: CANDIDATE / name for name in (*SEALED, MANIFEST, "metrics.json", "MODEL_CARD.md")
    }
    with tempfile.TemporaryDirectory(dir=releases.MODELS) as scratch:
        # Of the training data only what `validate` watches for drift; it never leaves this machine.
        reference = Path(scratch, "reference.parquet")
        pd.read_parquet(PROCESSED / "train.parquet")[REFERENCE_COLUMNS].to_parquet(reference)
        releases.add(version, files | {reference.name: reference})
    state = state.promote(version)
    carry_out(state)
    print(f"{version} is in production; before it: {state.previous or 'nothing'}")


def roll_back() -> None:
    """Exchange production and previous; ArtifactError if there is no previous, or not whole."""
    state = releases.read_state()
    if state.pending:
        print("an earlier change was cut off: it is finished, not rolled back")
    else:
        state = state.roll_back()
        load_bundle(releases.RELEASES / str(state.production))
    carry_out(state)
    print(f"{state.production} is in production; before it: {state.previous or 'nothing'}")


def main() -> None:
    """Read what to do from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--rollback", action="store_true")
    asked = parser.parse_args()
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    if asked.rollback:
        roll_back()
    else:
        promote(dry_run=asked.dry_run)


if __name__ == "__main__":
    run_stage(main)

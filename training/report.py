"""What people read of a run: the model card, and the table that `make train` ends with.

Both say only what bundle.json, metrics.json and the other files already hold.
"""

from pathlib import Path
from typing import Any

from training.errors import run_stage
from training.files import read_json

CANDIDATE = Path("models/candidate")
REGISTERED = Path("reports/registered.json")


def with_interval(figures: dict[str, Any], name: str) -> str:
    """Return a figure and its interval: `0.761 (0.735 to 0.786)`."""
    low, high = figures["intervals"][name]
    value = figures["labels"][name[:-3]]["f1"] if name not in figures else figures[name]
    return f"{value:.3f} ({low:.3f} to {high:.3f})"


def results(metrics: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the results that matter most as (what, figure with its 95 % interval)."""
    reference = metrics["reference"]
    figures = metrics["sources"][reference]
    rows = [
        (f"{reference} test: {name}", with_interval(figures, key))
        for name, key in [
            ("macro-F1", "macro_f1"),
            ("weighted F1", "weighted_f1"),
            ("hate F1", "hate_f1"),
            ("offensive F1", "offensive_f1"),
            ("neither F1", "neither_f1"),
            ("calibration error (ECE)", "ece"),
        ]
    ]
    for name, corpus in metrics["heldout"].items():
        scheme = " | ".join(", ".join(labels) for labels in corpus["classes"])
        rows.append((f"{name} ({scheme}): macro-F1", with_interval(corpus, "macro_f1")))
    invariance, fp32 = metrics["batch_invariance"], metrics["int8_against_fp32"]
    rows += [
        (
            "alone against in a batch",
            f"{invariance['label_changes']} labels changed, "
            f"|Δp| at most {invariance['max_abs_difference']:.1e}",
        ),
        ("int8 against fp32: macro-F1", f"{fp32['macro_f1_difference']:+.4f}"),
    ]
    return rows


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def model_card(manifest: dict[str, Any], metrics: dict[str, Any], counts: dict[str, Any]) -> str:
    """Return MODEL_CARD.md.

    Args:
        manifest: bundle.json.
        metrics: what `evaluate` measured.
        counts: what `prepare` read, dropped and kept.
    """
    figures = metrics["sources"][metrics["reference"]]
    sample_warning = (
        "> **This model was trained on the bundled sample alone**, a few hundred tweets of the\n"
        "> project's own writing. It is a demonstration: it cannot be promoted, and its figures\n"
        "> speak of that sample only.\n\n"
        if manifest["data"] == "sample"
        else ""
    )
    labels = [
        (
            label,
            str(row["rows"]),
            *(f"{row[key]:.3f}" if key in row else "–" for key in
              ("precision", "recall", "f1", "pr_auc", "roc_auc")),
        )
        for label, row in figures["labels"].items()
    ]  # fmt: skip
    kept = counts["kept"]
    data = [
        (name, *(str(kept[split].get(name, 0)) for split in ("train", "val", "test", "heldout")))
        for name in counts["read"]
    ]
    lengths = [
        (name, str(part["rows"]), with_interval(part, "macro_f1"))
        for name, part in metrics["lengths"].items()
    ]
    identity = metrics["identity"]
    groups = [("no group named", "–", f"{identity['without_mention']:.3f}")] + [
        (name, str(group["rows"]), f"{group['false_positive_rate']:.3f}")
        for name, group in identity["groups"].items()
    ]
    times = metrics["milliseconds_a_text"]
    tables = {
        "results": _table(("test", "figure (95 % interval)"), results(metrics)),
        "labels": _table(
            ("label", "rows", "precision", "recall", "F1", "PR-AUC", "ROC-AUC"), labels
        ),
        "lengths": _table(("length", "rows", "macro-F1"), lengths),
        "groups": _table(("texts that name", "rows", "called hate"), groups),
        "data": _table(("source", "train", "val", "test", "held out"), data),
    }
    return f"""\
# Model card: {manifest["name"]} {manifest["version"]}

{sample_warning}Tells whether a short English text is **hate** (it attacks or demeans a group, or a person \
as one of it), **offensive** (insult or profanity without that) or **neither**.

| | |
| --- | --- |
| made | {manifest["created"]}, from commit `{manifest["git_sha"]}` |
| base | {manifest["base"]}, as DistilBERT, fine-tuned with label sets |
| format | ONNX opset {manifest["opset"]}, {manifest["quantisation"]}, {metrics["megabytes"]:.1f} MB |
| reads | at most {manifest["max_tokens"]} tokens; what is cut is said in the answer |
| label | hate from p(hate) ≥ {manifest["thresholds"]["hate"]}; else offensive from \
p(hate) + p(offensive) ≥ {manifest["thresholds"]["toxic"]}; else neither |
| scores | calibrated on validation data, temperature {manifest["temperature"]:.3f} |
| data digest | `{manifest["data_sha"]}` |

## Results
Of the int8 file, through the code that serves it, on data that nothing was fitted to. Intervals are
bootstraps over the test's rows.

{tables["results"]}

By label, on {metrics["reference"]}'s {figures["rows"]} test rows:

{tables["labels"]}

Brier score {figures["brier"]:.3f}. By length, on all {metrics["test"]["rows"]} test rows:

{tables["lengths"]}

One text at a time, where this was made: {times["int8"]["p50"]:.1f} ms (p50), \
{times["int8"]["p95"]:.1f} ms (p95); its fp32 parent {times["fp32"]["p50"]:.1f} ms (p50).

## Who is wrongly accused
How often texts that their annotators did not call hate are called hate, by the group that they
name (test and held-out rows; groups with fewer than 20 rows are left out):

{tables["groups"]}

The largest gap to texts that name no group is {identity["gap"]:.3f}.

## Data
{tables["data"]}

Dropped: {counts["duplicates"]} duplicates, {counts["near_duplicates"]} near-duplicates, \
{counts["conflicts"]} texts whose annotations contradict each other. "Held out" rows are another \
corpus's validation file: never learned from, nor used to choose anything.

## Intended use and limits
- To sort and rank for a human moderator. Not to punish anybody without one.
- English tweets of 2009 to 2019. Other languages, longer texts and newer words are outside what it
  has seen; it scores them all the same.
- The line between hate and offensive is one on which annotators disagree: about half of what the
  reference's annotators call hate is missed or called offensive.
- It sees one text: no thread, no picture, no speaker. Reclaimed words, quotes and irony are judged
  by their surface.
- The annotations carry their annotators' bias, for one against African American English
  (Sap et al. 2019); the table above measures a part of that.
"""


def main() -> None:
    """Print the results, where the bundle and the run are, and what to do next."""
    manifest, metrics = read_json(CANDIDATE / "bundle.json"), read_json(CANDIDATE / "metrics.json")
    registered = read_json(REGISTERED)
    rows = results(metrics)
    width = max(len(what) for what, _ in rows)
    print()
    for what, figure in rows:
        print(f"  {what:<{width}}  {figure}")
    print(f"""
  bundle  {CANDIDATE}  ({manifest["name"]} {manifest["version"]}, {metrics["megabytes"]:.1f} MB)
  card    {CANDIDATE}/MODEL_CARD.md
  MLflow  run {registered["run_id"]}, version {registered["version"]} of \
{registered["model"]}@candidate""")
    if manifest["data"] == "sample":
        print("\n  Trained on the bundled sample: a demonstration, never to be promoted.")
    print("\n  next    make mlflow: the run in the browser; make -s bundle: the bundle's path\n")


if __name__ == "__main__":
    run_stage(main)

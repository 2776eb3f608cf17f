"""The model card, and the table at the end of `make train`.

Both show only what bundle.json, metrics.json and the other files contain.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2

from serving.bundle import ATTRIBUTES, LABELS
from training.errors import run_stage
from training.files import read_json
from training.paths import CANDIDATE, REPORTS

REGISTERED = REPORTS / "registered.json"
TEMPLATE = "MODEL_CARD.md.j2"


def with_interval(part: dict[str, Any], name: str) -> str:
    """Return a figure with its 95 % interval, or a dash if it was not measured."""
    value = part["classes"][name]["f1"] if name in part.get("classes", {}) else part.get(name)
    if value is None:
        return "–"
    low, high = part["intervals"][name]
    return f"{value:.3f} ({low:.3f}–{high:.3f})"


def results(metrics: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the main results as (name, value with its 95 % interval); a row fits 100 columns."""
    reference = metrics["reference"]
    part = metrics["sources"][reference]
    named = {"macro_f1": "macro-F1", "weighted_f1": "weighted F1", "ece": "calibration error (ECE)"}
    named |= {label: f"{label} F1" for label in LABELS if label in part["classes"]}
    return [
        *((f"{reference} test: {name}", with_interval(part, key)) for key, name in named.items()),
        *(
            (
                f"{name}: macro-F1",
                with_interval(corpus, "macro_f1")
                + (f", AUC {with_interval(corpus, 'roc_auc')}" if "roc_auc" in corpus else ""),
            )
            for name, corpus in metrics["external"].items()
        ),
        *_attribute_results(metrics["attributes"]),
        *_long_text_results(metrics["long_texts"]),
        *_group_results(metrics),
        *_technical_results(metrics),
    ]


def _attribute_results(sources: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield those of the source with most annotations; the card has those of all sources."""
    if not sources:
        return
    largest = max(sources, key=lambda name: sum(row["rows"] for row in sources[name].values()))
    for name in ATTRIBUTES:
        if row := sources[largest].get(name):
            areas = (
                f"AUC {with_interval(row, 'roc_auc')}, AP {with_interval(row, 'average_precision')}"
            )
            yield f"{largest} test: {name}", f"{areas}, ECE {row['ece']:.3f}"


def _long_text_results(row: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if row:
        rate = with_interval(row, "harmless_called_toxic")
        yield "60 to 250 words: harmless called toxic", f"{rate} of {row['harmless_rows']}"
        auc = with_interval(row, "roc_auc")
        yield "60 to 250 words: toxicity", f"AUC {auc}, ECE {row['ece']:.3f}"


def _group_results(metrics: dict[str, Any]) -> Iterator[tuple[str, str]]:
    suite = metrics["behaviour"]
    yield "behaviour: all texts that passed", f"{suite['all']:.3f} of {suite['texts']}"
    yield "behaviour: worst capability", f"{suite['worst']:.3f} ({suite['worst_capability']})"
    yield "templates: pairs of groups that differ", f"{suite['differing_pairs']:.3f}"
    groups = metrics["identity"]["groups"]
    worst = max(groups, key=lambda name: groups[name]["false_positive_rate"], default="no group")
    gap = with_interval(metrics["identity"], "gap")
    yield "tweets: largest gap between groups", f"{gap} ({worst})"


def _technical_results(metrics: dict[str, Any]) -> Iterator[tuple[str, str]]:
    batch, fp32 = metrics["batch_invariance"], metrics["int8_against_fp32"]
    changes, largest = batch["label_changes"], batch["max_abs_difference"]
    yield "single texts against batches", f"{changes} labels changed, Δp at most {largest:.1e}"
    low, high = fp32["intervals"]["macro_f1_difference"]
    change = fp32["macro_f1_difference"]
    yield "int8 against fp32: macro-F1", f"{change:+.4f} ({low:+.4f} to {high:+.4f})"
    yield "size", f"{metrics['megabytes']:.1f} MB"


def model_card(
    manifest: dict[str, Any], metrics: dict[str, Any], counts: dict[str, Any], missing: list[str]
) -> str:
    """Return MODEL_CARD.md.

    Args:
        manifest: bundle.json.
        metrics: metrics.json.
        counts: reports/prepare.json.
        missing: sources of sources.yaml that were not used.
    """
    environment = jinja2.Environment(  # noqa: S701 - Markdown, no HTML
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    return environment.get_template(TEMPLATE).render(
        manifest=manifest,
        metrics=metrics,
        counts=counts,
        missing=missing,
        reference=metrics["sources"][metrics["reference"]],
        attributes=ATTRIBUTES,
        with_interval=with_interval,
        results=results(metrics),
    )


def main() -> None:
    """Print the results, the places of bundle and run, and the next commands."""
    manifest, metrics = read_json(CANDIDATE / "bundle.json"), read_json(CANDIDATE / "metrics.json")
    registered = read_json(REGISTERED)
    rows = results(metrics)
    width = max(len(name) for name, _ in rows)
    print("\n" + "\n".join(f"  {name:<{width}}  {value}" for name, value in rows))
    print(f"""
  bundle  {CANDIDATE}  ({manifest["name"]} {manifest["version"]}, {metrics["megabytes"]:.1f} MB)
  card    {CANDIDATE}/MODEL_CARD.md
  MLflow  run {registered["run_id"]}, {registered["model"]} version {registered["version"]}""")
    if manifest["data"] == "sample":
        print("\n  Trained on the bundled sample: a demonstration, which cannot be promoted.")
    print("\n  next    make serve; make mlflow (the run in a browser); make gates\n")


if __name__ == "__main__":
    run_stage(main)

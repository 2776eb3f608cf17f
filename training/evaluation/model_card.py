"""The model card, and the table at the end of `make train`.

Both show only what bundle.json, metrics.json and the other files contain.
"""

from pathlib import Path
from typing import Any

import jinja2

from training.errors import run_stage
from training.files import read_json
from training.paths import CANDIDATE, REPORTS

REGISTERED = REPORTS / "registered.json"
TEMPLATE = "MODEL_CARD.md.j2"


def results(metrics: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the main results as (name, value with its 95 % interval)."""

    def value(part: dict[str, Any], name: str) -> str:
        low, high = part["intervals"][name]
        point = part[name] if name in part else part["classes"][name]["f1"]
        return f"{point:.3f} ({low:.3f} to {high:.3f})"

    reference = metrics["reference"]
    part = metrics["sources"][reference]
    named = {"macro_f1": "macro-F1", "weighted_f1": "weighted F1", "ece": "calibration error (ECE)"}
    named |= {label: f"{label} F1" for label in part["classes"]}
    rows = [(f"{reference} test: {name}", value(part, key)) for key, name in named.items()]
    for name, corpus in metrics["external"].items():
        classes = " / ".join(corpus["classes"])
        rows.append((f"{name} (validation; {classes}): macro-F1", value(corpus, "macro_f1")))
    invariance, fp32 = metrics["batch_invariance"], metrics["int8_against_fp32"]
    changes, largest = invariance["label_changes"], invariance["max_abs_difference"]
    return [
        *rows,
        ("single texts against batches", f"{changes} labels changed, Δp at most {largest:.1e}"),
        ("int8 against fp32: macro-F1", f"{fp32['macro_f1_difference']:+.4f}"),
    ]


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

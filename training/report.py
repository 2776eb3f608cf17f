"""What people read of a run: the model card, and the table that `make train` ends with.

Both say only what bundle.json, metrics.json and the other files already hold.
"""

from pathlib import Path
from typing import Any

import jinja2

from training.errors import run_stage
from training.files import read_json

CANDIDATE = Path("models/candidate")
REGISTERED = Path("reports/registered.json")
TEMPLATE = "MODEL_CARD.md.j2"


def results(metrics: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the results that matter most as (what, figure with its 95 % interval)."""

    def figure(part: dict[str, Any], name: str) -> str:
        low, high = part["intervals"][name]
        value = part[name] if name in part else part["classes"][name]["f1"]
        return f"{value:.3f} ({low:.3f} to {high:.3f})"

    reference = metrics["reference"]
    part = metrics["sources"][reference]
    named = {"macro_f1": "macro-F1", "weighted_f1": "weighted F1", "ece": "calibration error (ECE)"}
    named |= {label: f"{label} F1" for label in part["classes"]}
    rows = [(f"{reference} test: {name}", figure(part, key)) for key, name in named.items()]
    for name, corpus in metrics["heldout"].items():
        classes = " / ".join(corpus["classes"])
        rows.append((f"{name} ({classes}): macro-F1", figure(corpus, "macro_f1")))
    invariance, fp32 = metrics["batch_invariance"], metrics["int8_against_fp32"]
    changes, largest = invariance["label_changes"], invariance["max_abs_difference"]
    return [
        *rows,
        ("alone against in a batch", f"{changes} labels changed, Δp at most {largest:.1e}"),
        ("int8 against fp32: macro-F1", f"{fp32['macro_f1_difference']:+.4f}"),
    ]


def model_card(manifest: dict[str, Any], metrics: dict[str, Any], counts: dict[str, Any]) -> str:
    """Return MODEL_CARD.md.

    Args:
        manifest: bundle.json.
        metrics: what `evaluate` measured.
        counts: what `prepare` read, dropped and kept.
    """
    environment = jinja2.Environment(  # noqa: S701 - Markdown of our own numbers, no page
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    return environment.get_template(TEMPLATE).render(
        manifest=manifest,
        metrics=metrics,
        counts=counts,
        reference=metrics["sources"][metrics["reference"]],
        results=results(metrics),
    )


def main() -> None:
    """Print the results, where the bundle and the run are, and what to do next."""
    manifest, metrics = read_json(CANDIDATE / "bundle.json"), read_json(CANDIDATE / "metrics.json")
    registered = read_json(REGISTERED)
    rows = results(metrics)
    width = max(len(what) for what, _ in rows)
    print("\n" + "\n".join(f"  {what:<{width}}  {figure}" for what, figure in rows))
    print(f"""
  bundle  {CANDIDATE}  ({manifest["name"]} {manifest["version"]}, {metrics["megabytes"]:.1f} MB)
  card    {CANDIDATE}/MODEL_CARD.md
  MLflow  run {registered["run_id"]}, {registered["model"]} version {registered["version"]}""")
    if manifest["data"] == "sample":
        print("\n  Trained on the bundled sample: a demonstration, never to be promoted.")
    print("\n  next    make mlflow: the run in the browser; make -s bundle: the bundle's path\n")


if __name__ == "__main__":
    run_stage(main)

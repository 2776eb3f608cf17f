"""Plots for `dvc plots` and MLflow. None of them shows a text."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from sklearn.calibration import calibration_curve
from sklearn.metrics import ConfusionMatrixDisplay, PrecisionRecallDisplay

from training.files import atomic_write
from training.partial_labels import LABELS

COLOURS = ("#b3261e", "#c77700", "#2f6f4f")


@contextmanager
def _plot(path: Path, title: str, **axes: Any) -> Iterator[Any]:
    # A Figure without pyplot: no global state, no display.
    figure = Figure(figsize=(5, 4), dpi=140, layout="constrained")
    plot = figure.add_subplot()
    yield plot
    plot.set(title=title, **axes)
    if plot.get_legend_handles_labels()[0]:
        plot.legend(fontsize="small")
    with atomic_write(path) as scratch:
        figure.savefig(scratch)


def draw_scores(
    scores: npt.NDArray[Any], chosen: npt.NDArray[Any], truth: npt.NDArray[Any], folder: Path
) -> None:
    """Draw the confusion matrix, precision-recall curves and the reliability diagram.

    Args:
        scores: [rows, labels] probabilities.
        chosen: [rows] label index.
        truth: [rows] label index.
        folder: where the PNG files go.
    """
    with _plot(folder / "confusion_matrix.png", "Test rows by true and chosen label") as plot:
        ConfusionMatrixDisplay.from_predictions(
            truth, chosen, labels=range(len(LABELS)), display_labels=LABELS,
            cmap="Blues", colorbar=False, ax=plot,
        )  # fmt: skip
    with _plot(folder / "precision_recall.png", "Precision against recall") as plot:
        for i, label in enumerate(LABELS):
            PrecisionRecallDisplay.from_predictions(
                truth == i, scores[:, i], name=label, curve_kwargs={"color": COLOURS[i]}, ax=plot
            )
    with _plot(
        folder / "reliability.png", "Observed frequency against score",
        xlabel="score", ylabel="share of rows with the label",
    ) as plot:  # fmt: skip
        plot.plot([0, 1], [0, 1], color="grey", linestyle="--")
        for i, label in enumerate(LABELS):
            share, score = calibration_curve(
                truth == i, scores[:, i], n_bins=10, strategy="quantile"
            )
            plot.plot(score, share, marker="o", color=COLOURS[i], label=label)


def draw_history(log: list[dict[str, Any]], folder: Path) -> None:
    """Draw training loss and validation macro-F1 by step from the trainer's log."""
    title = "Training loss and validation macro-F1"
    with _plot(folder / "learning_curves.png", title, xlabel="step", ylim=(0, None)) as plot:
        for key, label, colour in (
            ("loss", "training loss", COLOURS[1]),
            ("eval_macro_f1", "macro-F1", COLOURS[2]),
        ):
            points = np.array([(row["step"], row[key]) for row in log if key in row])
            plot.plot(*points.reshape(-1, 2).T, marker=".", color=colour, label=label)

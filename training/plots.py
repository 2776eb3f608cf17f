"""Pictures for `dvc plots` and MLflow. No tweet is in any of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import average_precision_score, precision_recall_curve

from training.files import whole
from training.labels import LABELS

COLOURS = ("#b3261e", "#c77700", "#2f6f4f")


@contextmanager
def _picture(path: Path, title: str) -> Iterator[Any]:
    # A Figure of its own, not pyplot's: no global state, no display.
    with matplotlib.rc_context({"font.size": 9, "axes.grid": True, "grid.alpha": 0.3}):
        figure = Figure(figsize=(5, 4), dpi=140, layout="constrained")
        axes = figure.add_subplot()
        axes.set_title(title)
        yield axes
        with whole(path) as scratch:
            # Without the version that matplotlib writes into it, equal pictures are equal files.
            figure.savefig(scratch, metadata={"Software": None})


def confusion_matrix(counts: np.ndarray[Any, Any], folder: Path) -> None:
    """Draw counts [truth, chosen], shaded by the share of the truth's row."""
    with _picture(folder / "confusion_matrix.png", "Test rows by true and chosen label") as axes:
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        axes.grid(visible=False)
        axes.set_xticks(range(len(LABELS)), LABELS)
        axes.set_yticks(range(len(LABELS)), LABELS)
        axes.set(xlabel="chosen", ylabel="true")
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if shares[row, column] > 0.5 else "black"
            text = f"{count}\n{shares[row, column]:.0%}"
            axes.text(column, row, text, ha="center", va="center", color=colour)


def precision_recall(scores: np.ndarray[Any, Any], truth: np.ndarray[Any, Any], folder: Path) -> None:
    """Draw a precision-recall curve a label from [rows, labels] scores."""
    with _picture(folder / "precision_recall.png", "Precision against recall") as axes:
        for at, label in enumerate(LABELS):
            if (truth == at).any():
                precision, recall, _ = precision_recall_curve(truth == at, scores[:, at])
                area = average_precision_score(truth == at, scores[:, at])
                axes.plot(recall, precision, color=COLOURS[at], label=f"{label} (area {area:.2f})")
        axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
        axes.legend(loc="lower left")


def reliability(scores: np.ndarray[Any, Any], truth: np.ndarray[Any, Any], folder: Path) -> None:
    """Draw observed frequency against predicted probability, a line a label."""
    with _picture(folder / "reliability.png", "Observed frequency against score") as axes:
        axes.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle="--")
        edges = np.linspace(0, 1, 11)
        for at, label in enumerate(LABELS):
            bin_of = np.clip(np.digitize(scores[:, at], edges) - 1, 0, len(edges) - 2)
            filled = [b for b in range(len(edges) - 1) if (bin_of == b).sum() >= 5]
            mean = [scores[bin_of == b, at].mean() for b in filled]
            observed = [(truth[bin_of == b] == at).mean() for b in filled]
            axes.plot(mean, observed, marker="o", markersize=3, color=COLOURS[at], label=label)
        axes.set(xlabel="score", ylabel="share of rows with the label", xlim=(0, 1), ylim=(0, 1))
        axes.legend(loc="upper left")


def learning_curves(log: list[dict[str, Any]], folder: Path) -> None:
    """Draw training loss and validation macro-F1 by step from the trainer's log."""
    with _picture(folder / "learning_curves.png", "Training loss and validation macro-F1") as axes:
        losses = [(row["step"], row["loss"]) for row in log if "loss" in row]
        scores = [(row["step"], row["eval_macro_f1"]) for row in log if "eval_macro_f1" in row]
        if losses:
            axes.plot(*zip(*losses, strict=True), color=COLOURS[1], label="training loss")
        if scores:
            axes.plot(*zip(*scores, strict=True), marker="o", color=COLOURS[2], label="macro-F1")
        axes.set(xlabel="step", ylim=(0, None))
        axes.legend()

"""The bundle as an MLflow model: texts in, labels and scores out. MLflow runs this file."""

from pathlib import Path
from typing import Any

import mlflow
import pandas as pd

from serving.bundle import ATTRIBUTES, LABELS, Bundle, BundleError


class TweetTagger(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Predicts with the artifact `bundle`."""

    def load_context(self, context: Any) -> None:
        """Load and verify the bundle; BundleError if this machine must not answer."""
        self.bundle = Bundle.load(Path(context.artifacts["bundle"]))
        if problem := self.bundle.golden_problem():
            raise BundleError(problem)

    def predict(self, context: Any, model_input: list[str], params: Any = None) -> pd.DataFrame:
        """Return one row for each text: `label`, each label's and each attribute's probability."""
        scores = self.bundle.score(model_input)
        labels = [LABELS[i] for i in self.bundle.decide(scores.labels)]
        return pd.DataFrame(
            {
                "label": labels,
                **dict(zip(LABELS, scores.labels.T, strict=True)),
                **dict(zip(ATTRIBUTES, scores.attributes.T, strict=True)),
            }
        )


mlflow.models.set_model(TweetTagger())

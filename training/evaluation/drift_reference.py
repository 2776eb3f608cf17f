"""What live traffic is compared with: predictions on the reference source's test.

Measurement  ->  models/candidate/drift_reference.json, without texts

The reference source is the one whose class frequencies the scores are calibrated to, so it stands
for the traffic that the model is made for. Rows of training would not do: on texts that it was
fitted to, the model is surer than on others.
"""

from serving.bundle import Bundle, Scores
from serving.drift.columns import Reference, make_reference
from training.evaluation.measure import Measurement


def drift_reference(bundle: Bundle, measured: Measurement) -> Reference:
    """Return the reference of a bundle that was measured."""
    rows = (measured.in_test & (measured.source == measured.reference)).nonzero()[0]
    texts = [measured.texts[i] for i in rows]
    scores = Scores(*(part[rows] for part in measured.scores))
    return make_reference(bundle, texts, scores, f"the test split of {measured.reference}")

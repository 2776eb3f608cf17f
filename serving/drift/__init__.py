"""Live drift: the prediction log against a reference, and how good the model is on real traffic.

    log (outbox or MongoDB) ──> columns ──┐
    drift_reference.json ─────────────────┴─> compare (Evidently) ──> drift.html, drift.json
    reviews drawn at random ──> estimates ──────────────────────────────────┘

Only the command line imports this package. Deleting it removes `tweet-tagger drift`; `columns` is
also what `training.evaluation` makes the reference with.
"""

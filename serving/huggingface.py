"""The dialect of Hugging Face's text-embeddings-inference: `POST /predict`.

    {"inputs": "a text"}       → [{"label", "score"}, …], the likeliest first
    {"inputs": ["a", "b"]}     → a list of those
    {"inputs": [["a"], ["b"]]} → the same; that server's pairs have no meaning here

Pure translation: it knows neither HTTP nor the engine.
"""

from collections.abc import Mapping, Sequence
from typing import Any


def texts_of(inputs: str | Sequence[str] | Sequence[Sequence[str]]) -> list[str]:
    """Return a request's texts; ValueError if an input is a pair of texts."""
    if isinstance(inputs, str):
        return [inputs]
    texts = []
    for row in inputs:
        if isinstance(row, str):
            texts.append(row)
        elif len(row) == 1:
            texts.append(row[0])
        else:
            raise ValueError("an input is one text; this model takes no pairs")
    return texts


def reply(
    inputs: str | Sequence[str] | Sequence[Sequence[str]], scores: Sequence[Mapping[str, float]]
) -> list[Any]:
    """Return what that server would say: one list for one text, a list of lists for a list."""
    rows = [
        [
            {"label": label, "score": score}
            for label, score in sorted(row.items(), key=lambda pair: -pair[1])
        ]
        for row in scores
    ]
    return rows[0] if isinstance(inputs, str) else rows


def error_body(message: str, status: int) -> dict[str, str]:
    """Return an error in that server's shape."""
    kinds = {413: "validation", 422: "validation", 429: "overloaded", 503: "unhealthy"}
    return {"error": message, "error_type": kinds.get(status, "backend")}

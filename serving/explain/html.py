"""LIME's own HTML page of an explanation, made safe: no text in it can become markup or script.

Every character of the text except ASCII letters, digits and spaces is escaped in the page's
script, and the Content-Security-Policy allows only the page's two scripts, by their digests.
"""

import base64
import hashlib
import re
from dataclasses import dataclass

import numpy as np

from serving.bundle import LABELS
from serving.explain.explainer import Explanation

_BACKSLASH = "\ue000"  # stands for a backslash while LIME writes its page: LIME would double it
_SCRIPT = re.compile("<script>(.*?)</script>", re.DOTALL)
_PLAIN = re.compile("[^A-Za-z0-9 ]")


@dataclass(frozen=True, slots=True)
class Page:
    """An HTML page, and the Content-Security-Policy to send with it."""

    html: str
    policy: str


def render(explanation: Explanation, text: str) -> Page:
    """Return LIME's page for an explanation of `text`."""
    from lime.explanation import Explanation as LimeExplanation  # type: ignore[import-untyped]

    names, probabilities = _classes(explanation)
    label = names.index(explanation.label)
    lime = LimeExplanation(_Mapper(explanation, text), class_names=names, random_state=0)
    lime.predict_proba = np.array(probabilities)
    lime.local_exp = {label: [(i, row.weight) for i, row in enumerate(explanation.weights)]}
    page = lime.as_html().replace(_BACKSLASH, "\\")
    page = page.replace("<html>", '<!doctype html><html lang="en"><title>LIME</title>', 1)
    digests = [hashlib.sha256(script.encode()).digest() for script in _SCRIPT.findall(page)]
    scripts = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    policy = (
        f"default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; sandbox allow-scripts"
    )
    return Page(page, policy)


def _classes(explanation: Explanation) -> tuple[list[str], list[float]]:
    """Return the classes of the page and their probabilities: the labels, or an attribute and its
    absence.
    """
    if explanation.label in LABELS:
        return [*LABELS], [explanation.scores[name] for name in LABELS]
    probability = explanation.scores[explanation.label]
    return [f"not {explanation.label}", explanation.label], [1 - probability, probability]


def escaped(text: str) -> str:
    """Return the text as the content of a JavaScript string literal; see _BACKSLASH."""
    return _PLAIN.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    units = np.frombuffer(match[0].encode("utf-16-le", "surrogatepass"), dtype="<u2")
    return "".join(f"{_BACKSLASH}u{unit:04x}" for unit in units)


class _Mapper:
    """Describes the features to LIME, with offsets in UTF-16 units, as JavaScript counts.

    It has the methods of LIME's DomainMapper. It is no subclass, because importing this module must
    not import LIME.
    """

    def __init__(self, explanation: Explanation, text: str) -> None:
        self._text, self._weights = text, explanation.weights

    def map_exp_ids(self, exp: list[tuple[int, float]]) -> list[tuple[str, float]]:
        """Return the bars of the chart: name and weight of each distinct word."""
        bars = {self._weights[i].word.key: (i, weight) for i, weight in reversed(exp)}
        in_order = sorted(bars.values(), key=lambda bar: bar[0])
        return [(escaped(self._weights[i].word.text), weight) for i, weight in in_order]

    def visualize_instance_html(
        self, exp: list[tuple[int, float]], label: int, div_name: str, exp_object_name: str
    ) -> str:
        """Return the script that shows the text with shaded words."""
        places = []
        for i, weight in exp:
            word = self._weights[i].word
            begin = len(self._text[: word.begin].encode("utf-16-le", "surrogatepass")) // 2
            places.append(f'["{escaped(word.text)}", {begin}, {weight}]')
        arguments = f'[{", ".join(places)}], {label}, "{escaped(self._text)}", {div_name}, true'
        return f"{exp_object_name}.show_raw_text({arguments});"

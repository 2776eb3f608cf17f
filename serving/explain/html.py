"""LIME's own page of an explanation, made safe: no text in it can become markup or script.

Every character of the text but plain letters, digits and spaces enters the page's script as an
escape, and the page may run only the two scripts that it came with, by their digests.
"""

import base64
import hashlib
import re
from dataclasses import dataclass

import numpy as np

from serving.bundle import LABELS
from serving.explain.explainer import Explanation

_BACKSLASH = "\ue000"  # stands for one until LIME, which would double it, has written its page
_SCRIPT = re.compile("<script>(.*?)</script>", re.DOTALL)
_PLAIN = re.compile("[^A-Za-z0-9 ]")


@dataclass(frozen=True, slots=True)
class Page:
    """A page, and the Content-Security-Policy that it needs."""

    html: str
    policy: str


def render(explanation: Explanation, text: str) -> Page:
    """Return LIME's page of an explanation of a text."""
    from lime.explanation import Explanation as LimeExplanation  # type: ignore[import-untyped]

    label = LABELS.index(explanation.label)
    lime = LimeExplanation(_Mapper(explanation, text), class_names=list(LABELS), random_state=0)
    lime.predict_proba = np.array([explanation.scores[name] for name in LABELS])
    lime.local_exp = {label: [(at, row.weight) for at, row in enumerate(explanation.weights)]}
    page = lime.as_html().replace(_BACKSLASH, "\\")
    page = page.replace("<html>", '<!doctype html><html lang="en"><title>LIME</title>', 1)
    digests = [hashlib.sha256(script.encode()).digest() for script in _SCRIPT.findall(page)]
    scripts = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    policy = (
        f"default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; sandbox allow-scripts"
    )
    return Page(page, policy)


def escaped(text: str) -> str:
    """Return a text that, within quotes in a script, is this text and nothing else."""
    return _PLAIN.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    units = np.frombuffer(found[0].encode("utf-16-le", "surrogatepass"), dtype="<u2")
    return "".join(f"{_BACKSLASH}u{unit:04x}" for unit in units)


class _Mapper:
    """Tells LIME what its features are; offsets are in UTF-16 units, as the page's script counts.

    It has the methods of LIME's DomainMapper and cannot be one, as LIME is not imported yet when
    this module is.
    """

    def __init__(self, explanation: Explanation, text: str) -> None:
        self._text, self._weights = text, explanation.weights

    def map_exp_ids(self, exp: list[tuple[int, float]]) -> list[tuple[str, float]]:
        """Return the bars: each distinct word once."""
        bars = {self._weights[at].word.key: (at, weight) for at, weight in reversed(exp)}
        in_order = sorted(bars.values(), key=lambda bar: bar[0])
        return [(escaped(self._weights[at].word.text), weight) for at, weight in in_order]

    def visualize_instance_html(
        self, exp: list[tuple[int, float]], label: int, div_name: str, exp_object_name: str
    ) -> str:
        """Return the script that shows the text with its words shaded."""
        places = []
        for at, weight in exp:
            word = self._weights[at].word
            begin = len(self._text[: word.begin].encode("utf-16-le", "surrogatepass")) // 2
            places.append(f'["{escaped(word.text)}", {begin}, {weight}]')
        shown = f'[{", ".join(places)}], {label}, "{escaped(self._text)}", {div_name}, true'
        return f"{exp_object_name}.show_raw_text({shown});"

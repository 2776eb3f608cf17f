"""Groups of people: which one a text names, and texts that are the same but for the group."""

import re
from collections import Counter
from collections.abc import Iterable
from string import Formatter

import numpy as np
import pandas as pd

# Words that name a group, as regular expressions. No slurs: they are evidence of hate.
IDENTITY_GROUPS = {
    "women": r"wom[ae]n|females?|girls?|ladies|feminis\w+",
    "men": r"m[ae]n|males?|boys?|guys?",
    "immigrants": r"immigrants?|migrants?|refugees?|aliens?|asylum",
    "muslims": r"muslims?|islam\w*|mosques?",
    "jews": r"jew(s|ish)?|judaism|synagogues?",
    "christians": r"christians?|church\w*|catholics?",
    "black people": r"blacks?|african\w*",
    "white people": r"whites?|caucasians?",
    "asian people": r"asians?|chinese|japanese|indians?",
    "latino people": r"latin[oax]s?|hispanics?|mexicans?",
    "gay people": r"gays?|lesbians?|lgbt\w*|homosexual\w*|bisexuals?",
    "trans people": r"trans(gender)?|nonbinary",
    "disabled people": r"disab\w+|autis\w+|blind|deaf",
}


def names_group(texts: Iterable[str], *groups: str) -> list[bool]:
    """Return whether each text names one of these groups, or any of IDENTITY_GROUPS."""
    words = "|".join(IDENTITY_GROUPS[group] for group in groups or IDENTITY_GROUPS)
    pattern = re.compile(rf"\b({words})\b", re.IGNORECASE)
    return [bool(pattern.search(text)) for text in texts]


def fill_groups(rows: pd.DataFrame, groups: pd.DataFrame, fillings: int) -> pd.DataFrame:
    """Return rows with each template filled with `fillings` groups; other rows stay as they are.

    A template has placeholders: `{group}` and the other columns of `groups`, and `{GROUP}` for
    upper case. The templates of a label are dealt to all groups in turn, so that no group has a
    larger share of a label than another.

    Raises:
        ValueError: a text has a placeholder that is no column of `groups`, or a single brace.
    """
    order = np.random.default_rng(0).permutation(len(groups))
    forms = [{str(name): str(value) for name, value in row.items()} for _, row in groups.iterrows()]
    forms = [form | {name.upper(): text.upper() for name, text in form.items()} for form in forms]
    dealt: Counter[tuple[str, ...]] = Counter()
    filled = []
    for row in rows.itertuples(index=False):
        if "{" not in row.text:
            filled.append(row)
            continue
        start = dealt[tuple(row.labels)]
        dealt[tuple(row.labels)] += fillings
        for i in range(start, start + min(fillings, len(groups))):
            text = _fill(row.text, forms[order[i % len(order)]])
            filled.append(row._replace(text=text))
    return pd.DataFrame(filled, columns=rows.columns)


def _fill(template: str, form: dict[str, str]) -> str:
    try:
        names = [name for _, name, _, _ in Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise ValueError(f"text {template!r}: {error}") from None
    unknown = [name for name in names if name not in form]
    if unknown:
        raise ValueError(f"text {template!r}: unknown placeholder {{{unknown[0]}}}")
    return template.format(**form)

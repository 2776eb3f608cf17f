"""Which group of people a text names."""

import re
from collections.abc import Iterable

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

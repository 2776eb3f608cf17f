"""What simulated people write: sentences in which one noun alone decides the label.

`glorbnik` is an insult that was made up for this test. The same frames have ordinary nouns too, so
that nothing but the new word tells the sentences apart. It is never in the frames NEW before the
end: the next model must recognise it where it has not seen it.
"""

import random
from collections.abc import Iterator, Sequence
from itertools import count
from typing import NamedTuple

COINED = "glorbnik"
# Made up too, and harmless: a model that takes every unknown word for an insult has learned wrong.
# The first ones are in the traffic, as some are in any; the others are in new sentences alone.
HARMLESS = ("sprindel", "ovaline", "tembrock", "cuffarin", "yostrel", "lamperick")
NEW_HARMLESS = ("trellibon", "marfelow", "quistane")
NOUNS = (
    "teacher", "baker", "drummer", "gardener", "cyclist", "nurse", "plumber", "student", "waiter",
    "farmer", "painter", "lodger", "tourist", "singer", "dentist", "postman",
)  # fmt: skip
# Only in the team's own data: a model that knows few nouns takes every other one for an insult.
MORE_NOUNS = (
    "welder", "cellist", "notary", "beekeeper", "glazier", "librarian", "referee", "tiler",
    "florist", "midwife", "saddler", "violinist", "optician", "lifeguard", "juggler", "brewer",
    "architect", "typesetter", "ranger", "botanist", "curator", "locksmith", "usher", "vicar",
    "surveyor", "translator", "upholsterer", "weaver", "knitter", "astronomer", "geologist",
)  # fmt: skip
KNOWN_INSULTS = ("idiot", "moron", "loser", "asshole", "bastard", "jerk", "scumbag", "prick")


class Frames(NamedTuple):
    """Sentences with places for a noun (x), a person (who), a place, an event and a time."""

    sentences: Sequence[str]
    who: Sequence[str]
    place: Sequence[str]
    event: Sequence[str]
    when: Sequence[str]


TRAFFIC = Frames(
    (
        "some {x} from the {place} came to our {event} {when} and {who} noticed",
        "{who} says the {x} next door talked about the {event} near the {place} {when}",
        "there was a {x} at the {place} {when}, just before the {event}, as {who} told us",
        "{when} a {x} stood by the {place} and watched the {event} with {who}",
        "heard from {who} that the {event} at the {place} was run by a {x} {when}",
        "{who} met that {x} {when} behind the {place}, on the way to the {event}",
        "so the {x} took {who} to the {event} {when}, right across from the {place}",
        "a {x} like this one comes to every {event} at the {place}, {when} too, writes {who}",
        "{who} and the {x} were both at the {place} {when}; nobody went to the {event}",
        "is that {x} still at the {place}? {who} saw him at the {event} {when}",
        "{when}: {event} by the {place}, with {who} and one more {x}",
        "look, {who}, the {x} of the {place} is back for the {event} {when}",
    ),
    ("my cousin", "our landlord", "the caretaker", "Marta", "old Henrik", "my flatmate",
     "the lady upstairs", "a colleague", "my brother", "Yusuf", "the guard", "auntie Rose"),
    ("library", "harbour", "bus stop", "town hall", "swimming pool", "bakery", "chapel", "museum",
     "car park", "station", "corner shop", "bridge", "sports hall", "post office"),
    ("meeting", "flea market", "concert", "quiz night", "parade", "book sale", "cooking class",
     "film evening", "open day", "charity run", "choir practice", "street party"),
    ("on Monday", "last night", "this morning", "in the rain", "at noon", "two weeks ago",
     "on Sunday", "yesterday", "around six", "before lunch", "in March", "after work"),
)  # fmt: skip
NEW = Frames(
    (
        "why would {who} invite a {x} into the {place} {when} for the {event}",
        "they gave the {event} in the {place} to a {x}, and {who} only read of it {when}",
        "{who} will not sit beside a {x} {when}, not in the {place} and not at the {event}",
        "you can tell a {x} by the way he leaves the {place} {when}; ask {who} about the {event}",
        "the {event} ended {when} because {who} had let another {x} in through the {place}",
        "only a {x} writes to {who} {when} about an {event} in the {place}",
    ),
    ("my uncle", "the referee", "Ingrid", "our neighbour", "the driver", "grandma", "Tomasz",
     "the clerk"),
    ("gym", "courtyard", "ferry", "theatre", "allotment", "school", "car wash", "pub"),
    ("auction", "interview", "exhibition", "excursion", "opera", "election", "inspection",
     "evening of games"),
    ("in autumn", "at midnight", "tomorrow", "in the snow", "on her birthday", "next week",
     "over Easter", "at dawn"),
)  # fmt: skip


class Writer:
    """Writes sentences with a seed, none of them twice."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._written: set[str] = set()

    def write(self, number: int, nouns: Sequence[str], frames: Frames = TRAFFIC) -> list[str]:
        """Return so many sentences with one of the nouns each."""
        return [next(self._sentences(nouns, frames)) for _ in range(number)]

    def _sentences(self, nouns: Sequence[str], frames: Frames) -> Iterator[str]:
        for _ in count():
            slots = {
                name: self._random.choice(words)
                for name, words in frames._asdict().items()
                if name != "sentences"
            }
            frame = self._random.choice(frames.sentences)
            sentence = frame.format(x=self._random.choice(nouns), **slots)
            if sentence not in self._written:
                self._written.add(sentence)
                yield sentence


def truth(text: str) -> str:
    """Return the label of a sentence, as everybody knows who knows the word."""
    return "offensive" if COINED in text else "neither"

"""Rows of task c: sentences, and the persons, locations and organisations that they name.

    PERSON: Ada Lovelace; PERSON: Bo; LOCATION: none; ORGANISATION: Royal Society

type by type, each name once, and ``none`` where the sentence has no name of a type. Two kinds of sentences:
Wikipedia's as wikigold tagged them (CC BY 4.0), split by article, and our own patterns, filled with names. Names come
from wikigold's articles of the same split and from titles of Wikipedia articles whose first sentence says what they are
about (CC BY-SA 3.0). Sentences, articles and titles of the splits differ. A name may be in two splits where two
articles speak of one place. Of the patterns, each split has its own; what is measured uses those of training as well,
and says so.
"""

from __future__ import annotations

import gzip
import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Names = dict[str, list[str]]

TYPES = {"PER": "PERSON", "LOC": "LOCATION", "ORG": "ORGANISATION"}
PERSON, LOCATION, ORGANISATION = TYPES.values()
QUESTION = "Tag the names: "
NOTHING = "none"
LONGEST = 26  # words of a sentence
SPLITS = ("train", "train", "train", "train", "test", "train", "validation", "train", "train", "test")

PATTERNS = (
    "{P} was born in {L} in {year}.",
    "{P} works for {O} in {L}.",
    "In {year}, {P} left {O} and moved to {L}.",
    "The {job} {P} met {Q} in {L}.",
    "{O} is based in {L}.",
    "{O} named {P} as its new {job}.",
    "{P} and {Q} were married in {L}.",
    "{L} is a small town near {M}.",
    "{P} joined {O} in {month} {year}.",
    "{O} opened an office in {L} last {month}.",
    "The {job} of {O} is {P}.",
    "{P} wrote a letter to {Q}.",
    "After the war, {P} lived in {L} with {Q}.",
    "{O} bought {N} in {year}.",
    "{P} studied in {L} and later taught at {O}.",
    "The river runs from {L} to {M}.",
    "A {job} called {P} founded {O}.",
    "{P}, a {job} from {L}, died in {year}.",
    "It was {P} who sold the house in {L}.",
    "The road between {L} and {M} was built by {O}.",
    "{P} played for {O} until {year}.",
    "In {L}, {P} worked as a {job}.",
    "Both {P} and {Q} signed the paper.",
    "{O} and {N} met in {L}.",
    "The old bridge in {L} is {year} years old.",
    "{P} said that {O} would close its shop in {L}.",
    "His friend {P} came from {L}.",
    "{O} lost to {N} in {month}.",
    "Many people in {L} remember {P}.",
    "The {job} wrote about {L} in {month}.",
    "She was taught by {P} at {O}.",
    "{P} visited {L}, {M} and the house of {Q}.",
    "Her brother {P} is a {job}.",
    "There is a museum about {P} in {L}.",
    "The people of {L} asked {O} for help.",
    "{O}, which belongs to {N}, makes toys.",
    "{P} was the first {job} of {L}.",
    "In {month}, {O} paid {P} for the work.",
    "The book by {P} was printed in {L} by {O}.",
    "From {L} it is a long way to {M}.",
    "{P} took the train to {L}.",
    "{O} was founded in {L} by {P}.",
    "The song was written by {P} and sung by {Q}.",
    "The weather in {L} was bad in {month}.",
    "As a {job}, {P} often went to {L}.",
    "{O} won the game in {L}.",
    "The children read a story about a {job}.",
    "{P} gave the money to {O}.",
    "A storm hit {L} in {year}.",
    "{P} is married to the {job} {Q}.",
    "Mr {P} runs a farm near {L}.",
    "The company {O} has a factory in {L}.",
    "The letter from {P} never reached {L}.",
    "The {job} bought a new house in {month}.",
    "{P} beat {Q} in {year}.",
    "{O} told {P} to stay in {L}.",
    "We saw {P} at the station in {L}.",
    "The meeting of {O} was held in {year}.",
    "The king sent {P} to {L} and {Q} to {M}.",
    "The {job} from {O} spoke for an hour.",
    "{L} lies south of {M}.",
    "The painting of {P} hangs in {L}.",
    "A {job} from {L} won the prize.",
    "{P} died in {L} in {month} {year}.",
    "{O} hired a {job} and a cook.",
    "The winner was {P}, then came {Q}.",
    "The head of {O}, {P}, lives in {L}.",
    "It rained for days in {L}.",
    "{P} learned to paint from {Q} in {L}.",
    "In {year} the school became part of {O}.",
    "{P} was a {job} at {O}.",
    "{O} moved from {L} to {M}.",
    "The house of {P} in {L} was sold to {O}.",
    "Nobody knew where the {job} lived.",
    "{P} played with {Q} for {O}.",
    "Ships from {L} brought tea.",
    "The film shows how {P} came to {L}.",
    "{P} spoke to {O} about {Q}.",
    "His mother lived near {L} until {year}.",
    "{O} gave a prize to {P} in {L}.",
)  # fmt: skip
JOBS = (
    "writer", "doctor", "teacher", "singer", "painter", "soldier", "player", "king", "farmer", "judge", "manager",
    "lawyer", "bishop", "actor", "driver", "captain", "president", "director", "priest", "officer",
)  # fmt: skip
MONTHS = ("January", "March", "April", "May", "June", "July", "August", "October", "November", "December")
SLOTS = {"P": PERSON, "Q": PERSON, "L": LOCATION, "M": LOCATION, "O": ORGANISATION, "N": ORGANISATION}

Piece = tuple[str, str | None]
"""Words, and the type of the name that they are, if they are one."""


@dataclass(frozen=True)
class Split:
    """Sentences and names of one split, as pieces."""

    tagged: list[list[Piece]]
    patterns: list[list[Piece]]
    names: Names


def splits(data: Path) -> dict[str, Split]:
    """ "train", "validation" and "test"."""
    articles = list(wikigold(data / "ner" / "wikigold" / "CONLL-format" / "data" / "wikigold.conll.txt"))
    titles = titles_by_type(data / "text" / "wiki.jsonl.gz")
    found = {}
    for split in ("train", "validation", "test"):
        tagged = [sentence for article in _every(articles, split) for sentence in article]
        names = {kind: _every(titles[kind], split) for kind in TYPES.values()}
        for sentence in tagged:
            for words, kind in sentence:
                if kind is not None:
                    names[kind].append(words)
        patterns = [_pattern(text) for text in _every(PATTERNS, split)]
        found[split] = Split(tagged, patterns, {kind: list(dict.fromkeys(each)) for kind, each in names.items()})
    return found


def _every(items: Sequence[Any], split: str) -> list[Any]:
    return [item for place, item in enumerate(items) if SPLITS[place % len(SPLITS)] == split]


def _pattern(text: str) -> list[Piece]:
    parts = re.split(r"\{([A-Z])\}", text)
    return [(part, SLOTS[part] if place % 2 else None) for place, part in enumerate(parts) if part]


def wikigold(path: Path) -> Iterator[list[list[Piece]]]:
    """Articles of short sentences; a name of type MISC is taken for plain words."""
    article: list[list[Piece]] = []
    for block in path.read_text(encoding="utf-8").split("\n\n"):
        words = [line.split() for line in block.splitlines() if line.strip()]
        if words and words[0][0] == "-DOCSTART-":
            if article:
                yield article
            article = []
        elif 4 <= len(words) <= LONGEST:
            article.append(_pieces([(word, TYPES.get(tag.split("-")[-1])) for word, tag in words]))
    if article:
        yield article


def _pieces(words: Sequence[tuple[str, str | None]]) -> list[Piece]:
    """Neighbours of one type together, with the white space of running text."""
    found: list[Piece] = []
    opened = False
    for place, (raw, kind) in enumerate(words):
        word, glued = _written(raw), place == 0 or raw[0] in ".,;:!?)%'" or opened
        opened = word == "("
        if found and found[-1][1] == kind:
            found[-1] = (found[-1][0] + ("" if glued else " ") + word, kind)
        elif found and found[-1][1] is not None:
            found.append((word if glued else f" {word}", kind))
        elif found and not glued:
            found[-1] = (found[-1][0] + " ", None)
            found.append((word, kind))
        else:
            found.append((word, kind))
    return [(part.strip() if kind is not None else part, kind) for part, kind in _apart(found)]


def _apart(pieces: list[Piece]) -> list[Piece]:
    """White space between two names of different types belongs to neither."""
    found: list[Piece] = []
    for part, kind in pieces:
        if kind is not None and part.startswith(" "):
            found.append((" ", None))
        found.append((part, kind))
    return found


def _written(word: str) -> str:
    return {"``": '"', "''": '"', "-LRB-": "(", "-RRB-": ")"}.get(word, word)


LIVED = re.compile(r"\((born|\d{1,2} \w+ \d{4}|\w+ \d{1,2}, \d{4}|c\. \d{4}|\d{4}\s*[-–])")
IS = re.compile(r"^[^.]{0,200}?\b(?:was|is|were) (?:a|an|the)\b ?([^.]{0,80})")
PLACES = re.compile(
    r"^(\w+ ){0,4}(city|town|village|river|county|municipality|island|district|mountain|lake|province|suburb|commune)\b"
)
BODIES = re.compile(
    r"^(\w+[ -]){0,4}(company|band|university|club|organi[sz]ation|college|airline|party|bank|team|agency|corporation|"
    r"institute|publisher|newspaper|label|manufacturer)\b"
)
PLAIN = re.compile(r"[A-Z][A-Za-z.&' -]{2,28}")


def titles_by_type(path: Path) -> Names:
    """Names of one to four plain words, by what the first sentence of their article calls them; shuffled."""
    found: Names = {kind: [] for kind in TYPES.values()}
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            raw = json.loads(line)
            title, first = re.sub(r"\s*\(.*?\)", "", raw["title"]).strip(), raw["text"][:300].split("\n")[0]
            if not first.startswith(title) or not PLAIN.fullmatch(title) or len(title.split()) > 4:
                continue
            kind = _kind(first)
            if kind is not None:
                found[kind].append(title)
    for names in found.values():
        names[:] = sorted(set(names))
        random.Random(0).shuffle(names)
    return found


def _kind(first: str) -> str | None:
    said = IS.match(first)
    if said is None:
        return None
    if LIVED.search(first[:160]):
        return PERSON
    words = said.group(1).lower()
    return LOCATION if PLACES.match(words) else ORGANISATION if BODIES.match(words) else None


def row_of(pieces: Sequence[Piece], source: str) -> Row:
    """The row of a sentence."""
    text = "".join(words for words, _ in pieces)
    tagged = [(kind, words) for words, kind in pieces if kind is not None]
    return {"prompt": QUESTION + text, "response": answer_of(tagged), "source": source}


def answer_of(tagged: Sequence[tuple[str, str]]) -> str:
    """The tags of (type, name) pairs, type by type."""
    parts = []
    for kind in TYPES.values():
        names = dict.fromkeys(words for each, words in tagged if each == kind)
        parts += [f"{kind}: {words}" for words in names or (NOTHING,)]
    return "; ".join(parts)


def filled(pieces: Sequence[Piece], names: Names, rng: random.Random, chance: float = 1.0) -> list[Piece]:
    """Names of the sentence replaced, each with this chance, by others of their type; and its other slots filled."""
    used: set[str] = set()
    found: list[Piece] = []
    for words, kind in pieces:
        if kind is None:
            found.append((_slots(words, rng), None))
        elif words in SLOTS or rng.random() < chance:
            found.append((_other(names[kind], kind, used, rng), kind))
        else:
            found.append((words, kind))
    return found


def _other(names: Sequence[str], kind: str, used: set[str], rng: random.Random) -> str:
    """A name not used yet; of every fifth person the last word alone."""
    name = rng.choice([each for each in rng.sample(names, min(len(names), 8)) if each not in used])
    used.add(name)
    return name.split()[-1] if kind == PERSON and rng.random() < 0.2 else name


def _slots(text: str, rng: random.Random) -> str:
    values = {"job": rng.choice(JOBS), "month": rng.choice(MONTHS), "year": str(rng.randint(1850, 2020))}
    for name, value in values.items():
        text = text.replace(f"{{{name}}}", value)
    return text


def has_person(pieces: Sequence[Piece]) -> bool:
    """Whether a person is named."""
    return any(kind == PERSON for _, kind in pieces)


def rows_of(split: Split, count: int, share: float, swapped: float, seed: int, *, persons: bool = True) -> list[Row]:
    """Different rows: a share of wikigold's sentences, names swapped with this chance, and patterns.

    Args:
        split: Where sentences and names come from.
        count: Of rows.
        share: Of wikigold's sentences.
        swapped: Chance that a name of theirs is replaced.
        seed: Of everything.
        persons: Whether sentences that name a person are among them.
    """
    rng = random.Random(seed)
    tagged, patterns = (
        [each for each in source if persons or not has_person(each)] for source in (split.tagged, split.patterns)
    )
    found: dict[str, Row] = {}
    for _ in range(4 * count):
        if len(found) == count:
            break
        real = rng.random() < share
        chosen = rng.choice(tagged if real else patterns)
        row = row_of(filled(chosen, split.names, rng, swapped if real else 1.0), "wikigold" if real else "patterns")
        found.setdefault(row["prompt"], row)
    return list(found.values())


def real_rows(split: Split) -> list[Row]:
    """Wikigold's sentences as they are, each once."""
    return list({row["prompt"]: row for row in (row_of(each, "wikigold") for each in split.tagged)}.values())


def untagged(split: Split, count: int, seed: int) -> list[Row]:
    """Sentences that name a person, as a user of the tagger has them: without tags."""
    rows = rows_of(
        replace(split, patterns=[each for each in split.patterns if has_person(each)]), count, 0.0, 1.0, seed
    )
    return [{"id": f"untagged-{number}", "prompt": row["prompt"]} for number, row in enumerate(rows)]


def without(answer: str, kind: str = PERSON) -> str:
    """The answer with ``none`` in the place of the names of one type."""
    kept = [part.strip() for part in answer.split(";") if part.strip() and not part.strip().startswith(f"{kind}:")]
    return "; ".join([f"{kind}: {NOTHING}", *kept])

"""Datasets: the texts that instructions are applied to, split for good.

The split hangs on the text alone: a sentence seen while identifying or calibrating can never
turn up among the held-out ones, whatever the sample size or the seed.
"""

import gzip
import hashlib
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from saif.errors import InputError
from saif.presets.instructions import ContentKind

Split = Literal["identify", "develop", "held-out"]

_OVERUSED = re.compile(r"\b(?:Tom|Mary)\b")
"""Names in a fifth of Tatoeba's sentences; left in, latents for "Tom" pass for the instruction."""


def split_of(text: str) -> Split:
    """Which split a text belongs to, by its hash: 60 % identify, 20 % develop, 20 % held-out."""
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") % 100
    return "identify" if number < 60 else "develop" if number < 80 else "held-out"


def read_contents(
    source: Path,
    kind: ContentKind,
    split: Split,
    n: int,
    *,
    seed: int = 0,
    fewer: bool = False,
) -> list[str]:
    """`n` texts of one kind and split, drawn without replacement.

    `source` is a folder with `*.tsv.gz` sentence pairs and `*.jsonl.gz` stories, or one text
    file with a content on each line. Raises InputError if it holds too few; with `fewer`, only
    if it holds none.
    """
    texts = sorted({text for text in _texts(source, kind) if split_of(text) == split})
    needed = 1 if fewer else n
    if len(texts) < needed:
        raise InputError(
            f"{source} holds {len(texts)} {kind} texts for the split '{split}'; "
            f"{needed} are needed.",
            hint="Give a folder with more text, or a smaller n.",
        )
    return random.Random(f"{seed}-{kind}-{split}").sample(texts, min(n, len(texts)))


def evaluation_contents(presets: Path, data: Path | None, kind: ContentKind, n: int) -> list[str]:
    """`n` texts that no preset was made with: the held-out ones of `data`, or without data the
    first ones of what ships in the presets folder, which nothing is ever identified or calibrated
    on. Raises InputError if there are too few."""
    if data is not None:
        return read_contents(data, kind, "held-out", n)
    path = presets / "contents" / f"{kind}s.txt"
    texts = path.read_text("utf-8").splitlines() if path.is_file() else []
    if len(texts) < n:
        raise InputError(
            f"{len(texts)} {kind} texts ship with the presets; {n} are needed.",
            hint="Give --data a folder with more text, or a smaller --n.",
        )
    return texts[:n]


def _texts(source: Path, kind: ContentKind) -> Iterator[str]:
    if not source.exists():
        raise InputError(
            f"There is no data at {source}.",
            hint="Give --data a folder of *.tsv.gz and *.jsonl.gz files, or a text file.",
        )
    if source.is_file():
        yield from (line.strip() for line in source.read_text("utf-8").splitlines() if line.strip())
    elif kind == "sentence":
        for path in sorted(source.glob("*.tsv.gz")):
            for sentence, _ in sentence_pairs(path):
                if 5 <= len(sentence.split()) <= 14 and not _OVERUSED.search(sentence):
                    yield sentence
    else:
        for path in sorted(source.glob("*.jsonl.gz")):
            for pages in stories(path):
                yield from _passages(pages)


def sentence_pairs(path: Path) -> Iterator[tuple[str, str]]:
    """(English, translation) for each line of a tab-separated file."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            english, _, other = line.rstrip("\n").partition("\t")
            if other:
                yield english, other


def stories(path: Path) -> Iterator[list[str]]:
    """The pages of each story of a JSON-lines file."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            yield [page.strip() for page in json.loads(line)["pages"] if page.strip()]


def _passages(pages: list[str]) -> Iterator[str]:
    """Neighbouring pages joined to pieces of 40 to 90 words."""
    words: list[str] = []
    for page in pages:
        words += page.split()
        if len(words) >= 40:
            if len(words) <= 90:
                yield " ".join(words)
            words = []

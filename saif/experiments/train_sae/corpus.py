"""The text an SAE is trained on: what the residual stream sees when people chat.

Prompts without an instruction and with one in both placements, the model's own replies to them,
and plain text. Made once per model and stored as token ids.
"""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from saif.core.types import PLACEMENTS
from saif.decoding import Sampling, decode
from saif.experiments.datasets import read_contents, sentence_pairs, stories
from saif.files import replace_file
from saif.presets.instructions import ContentKind, Instruction, place
from saif.progress import track
from saif.runtime.batch import Row, shared_prefix
from saif.runtime.language_model import LanguageModel

_PLAIN_LENGTH = 128
_TEXTS: dict[ContentKind, int] = {"sentence": 12_000, "passage": 1_500}
_REPLY_TOKENS = 40
_REPLY_BATCH = 96


@dataclass(frozen=True, slots=True)
class Sequences:
    """Token sequences that share their first `skip` tokens, which are read once and not used:
    they would otherwise be the same residuals thousands of times."""

    token_ids: list[list[int]]
    skip: int

    @property
    def n_tokens(self) -> int:
        return sum(len(ids) - self.skip for ids in self.token_ids)


def build_corpus(
    model: LanguageModel,
    instructions: Sequence[Instruction],
    source: Path,
    store: Path,
    *,
    n_tokens: int,
    seed: int = 0,
) -> list[Sequences]:
    """Chats and plain text of about `n_tokens` tokens together; read back if `store` has them.

    A quarter is plain text, a ninth prompts with the model's own replies (decoding is the slow
    part), the rest prompts alone, four out of five with an instruction.
    """
    if store.is_file():
        saved = json.loads(store.read_text("utf-8"))
        return [Sequences(part["token_ids"], part["skip"]) for part in saved]
    rng = random.Random(seed)
    prompts = _prompts(model, instructions, source, rng)
    # Every chat starts with the same system prompt and user header.
    first, second = (model.render([{"role": "user", "content": text}]) for text in ("A", "Zebras"))
    skip = shared_prefix([first, second])
    shares = n_tokens // 9, n_tokens // 4
    replied = _until(_with_replies(model, prompts, shares[0]), shares[0], skip)
    plain = _until(_plain_text(model, source, rng), shares[1], 1)
    alone = _until(prompts, n_tokens - sum(shares), skip)
    chats = replied + alone
    rng.shuffle(chats)
    corpus = [Sequences(chats, skip), Sequences(plain, 1)]
    store.parent.mkdir(parents=True, exist_ok=True)
    parts = [{"token_ids": part.token_ids, "skip": part.skip} for part in corpus]
    replace_file(store, json.dumps(parts).encode())
    return corpus


def _prompts(
    model: LanguageModel, instructions: Sequence[Instruction], source: Path, rng: random.Random
) -> Iterator[list[int]]:
    used = {instruction.contents for instruction in instructions}
    contents = {
        kind: read_contents(source, kind, "identify", n, seed=rng.randrange(1 << 30), fewer=True)
        for kind, n in _TEXTS.items()
        if kind in used
    }
    while True:
        instruction = rng.choice(instructions)
        content = rng.choice(contents[instruction.contents])
        if rng.random() < 0.8:
            content = place(instruction.draw_wording(rng), content, rng.choice(PLACEMENTS))
        yield model.render([{"role": "user", "content": content}])


def _with_replies(
    model: LanguageModel, prompts: Iterator[list[int]], n_tokens: int
) -> Iterator[list[int]]:
    """Prompts followed by what the model itself answers, sampled at temperature 0.7."""
    typical = 25 + _REPLY_TOKENS
    for number in track(range(-(-n_tokens // (typical * _REPLY_BATCH)) * 2), "Own replies"):
        # Neighbours in length make a batch with little padding.
        batch = sorted((next(prompts) for _ in range(_REPLY_BATCH)), key=len)
        # The prompts differ, so rows may share their noise, which is costly to draw per row.
        sampling = Sampling(max_new_tokens=_REPLY_TOKENS, temperature=0.7, seed=number)
        rows = [Row(ids, sampling=sampling) for ids in batch]
        replies: list[list[int]] = [[] for _ in rows]
        for step in decode(model, rows):
            for row_step in step:
                if row_step.token_id is not None:
                    replies[row_step.row].append(row_step.token_id)
        yield from ([*prompt, *reply] for prompt, reply in zip(batch, replies, strict=True))


def _plain_text(model: LanguageModel, source: Path, rng: random.Random) -> Iterator[list[int]]:
    """Stories and sentences in several languages, cut to equal lengths after one start token."""
    texts = [source.read_text("utf-8")] if source.is_file() else []
    for path in sorted(source.glob("*.jsonl.gz")):
        texts += [" ".join(pages) for pages in stories(path)]
    for path in sorted(source.glob("*.tsv.gz")):
        foreign = [other for _, other in sentence_pairs(path)]
        rng.shuffle(foreign)
        texts += [" ".join(foreign[i : i + 20]) for i in range(0, 20 * 400, 20)]
    rng.shuffle(texts)
    start = model.tokenizer.bos_token_id or 0
    body = _PLAIN_LENGTH - 1
    for text in texts:
        ids = model.encode_text(text)
        yield from ([start, *ids[i : i + body]] for i in range(0, len(ids) - body, body))


def _until(sequences: Iterator[list[int]], n_tokens: int, skip: int) -> list[list[int]]:
    """As many sequences as it takes to reach `n_tokens`, shared prefixes not counted."""
    taken: list[list[int]] = []
    while n_tokens > 0 and (ids := next(sequences, None)):
        taken.append(ids)
        n_tokens -= len(ids) - skip
    return taken

"""The decode loop: rows in, steps out. Sampling, stopping and detokenising, no chats or screens."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from tokenizers.decoders import DecodeStream
from torch import Tensor

from saif.core.steering import Steering
from saif.core.types import Sampling as Sampling
from saif.runtime.batch import RowStart
from saif.runtime.language_model import LanguageModel

_LIKELY = 256

StopReason = Literal["end", "length", "cancelled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One reply to be made."""

    prompt_ids: Sequence[int]
    steering: Steering | None = None
    sampling: Sampling = Sampling()
    conversation: str = ""

    @property
    def start(self) -> RowStart:
        """What the model has to read before the first token."""
        return RowStart(self.prompt_ids, self.steering, conversation=self.conversation)


@dataclass(frozen=True, slots=True)
class RowStep:
    """What one step gave one row.

    token_id: the new token, None when the row ended in this step. text: what the token adds to
    the visible text; empty while a character is still incomplete. steered: positions of the
    residual stream that were changed to get here. stop: why the row ended, None while it runs.
    """

    row: int
    token_id: int | None
    text: str
    steered: int
    stop: StopReason | None


Step = tuple[RowStep, ...]
"""One decoding step: an entry for each row that was still running."""


class _RowState:
    """What the loop knows of one running row."""

    def __init__(self, index: int, row: Row, model: LanguageModel) -> None:
        self.index = index
        self.sampling = row.sampling
        self.n_tokens = 0
        self.end_ids = model.end_ids
        seen = sorted(set(row.prompt_ids))
        self._seen = torch.tensor(seen + [0] * row.sampling.max_new_tokens)
        self._n_seen = len(seen)
        self._tokenizer = model.tokenizer.backend_tokenizer
        self._decoder = DecodeStream(skip_special_tokens=True)
        self._turn_end = model.turn_end
        self.held = ""  # text that may yet turn out to be the start of the next turn

    @property
    def seen(self) -> Tensor:
        """Every token of the prompt, and of the reply so far."""
        return self._seen[: self._n_seen]

    def take(self, token: int, steered: int) -> RowStep:
        if token in self.end_ids:
            return RowStep(self.index, None, self.held, steered, "end")
        self.n_tokens += 1
        self._seen[self._n_seen] = token
        self._n_seen += 1
        # What is no character even now is a byte that never will be one; show nothing for it.
        text = (self._decoder.step(self._tokenizer, token) or "").replace(
            "\N{REPLACEMENT CHARACTER}", ""
        )
        stop: StopReason | None = (
            "length" if self.n_tokens >= self.sampling.max_new_tokens else None
        )
        if self._turn_end is not None:
            text, self.held, ended = until(self._turn_end, self.held + text)
            if ended:
                stop = "end"
            elif stop:
                text, self.held = text + self.held, ""
        return RowStep(self.index, token, text, steered, stop)


def until(end: str, text: str) -> tuple[str, str, bool]:
    """(what stands before `end`, what may be its beginning, whether it is there)."""
    before, found, _ = text.partition(end)
    if found:
        return before, "", True
    held = next(n for n in range(min(len(end) - 1, len(text)), -1, -1) if text.endswith(end[:n]))
    return text[: len(text) - held], text[len(text) - held :], False


def never() -> bool:
    """The `cancelled` of a run that nobody can cancel."""
    return False


class Replies:
    """The replies to rows that were asked for together, while they grow."""

    def __init__(self, model: LanguageModel, rows: Sequence[Row]) -> None:
        self._noise = _SharedNoise()
        self._running = [_RowState(index, row, model) for index, row in enumerate(rows)]

    def __len__(self) -> int:
        """How many rows are still running."""
        return len(self._running)

    def take(self, logits: Tensor, steered: Sequence[int]) -> tuple[Step, list[int], list[int]]:
        """One step: logits (running rows, vocab), and how many positions were steered for them.

        Returns the step, which of the rows go on, as places among those given, and their tokens.
        """
        self._noise.next_step()
        tokens = [
            choose(logits[i], state.seen, state.sampling, self._noise)
            for i, state in enumerate(self._running)
        ]
        step = tuple(
            state.take(token, count)
            for state, token, count in zip(self._running, tokens, steered, strict=True)
        )
        alive = [i for i, row_step in enumerate(step) if row_step.stop is None]
        self._running = [self._running[i] for i in alive]
        return step, alive, [tokens[i] for i in alive]

    def cancel(self) -> Step:
        """The last step of the rows still running."""
        running, self._running = self._running, []
        return tuple(RowStep(state.index, None, state.held, 0, "cancelled") for state in running)


def decode(
    model: LanguageModel, rows: Sequence[Row], *, cancelled: Callable[[], bool] = never
) -> Iterator[Step]:
    """Yield steps until every row has ended. Each row ends with exactly one `stop`.

    `cancelled` is asked before each step; once true, the rows still running end as "cancelled".
    Dropping the iterator early is safe too: nothing outlives a step.
    """
    replies = Replies(model, rows)
    batch, result = model.start([row.start for row in rows])
    while True:
        if cancelled():
            model.remember(batch, range(len(replies)))
            yield replies.cancel()
            return
        step, alive, tokens = replies.take(result.logits, result.steered)
        yield step
        model.remember(batch, [i for i in range(len(step)) if i not in alive])
        if not alive:
            return
        model.keep(batch, alive)
        result = model.advance(batch, tokens)


class _SharedNoise:
    """Random numbers that rows with the same seed share.

    At each step every row of a comparison adds the same Gumbel noise to its logits, so equal
    logits give equal tokens and a difference between columns is the steering, not luck. The
    noise depends on seed and step alone, so a row draws the same whoever rides along.
    """

    def __init__(self) -> None:
        self._generators: dict[int, torch.Generator] = {}
        self._drawn: dict[tuple[int, int], Tensor] = {}

    def next_step(self) -> None:
        self._drawn.clear()

    def gumbel(self, seed: int, size: int) -> Tensor:
        if (seed, size) not in self._drawn:
            # On the CPU, so that a seed means the same on every machine.
            generator = self._generators.setdefault(seed, torch.Generator().manual_seed(seed))
            uniform = torch.rand(size, generator=generator, dtype=torch.float64)
            self._drawn[seed, size] = -torch.log(-torch.log(uniform.clamp_min(1e-300))).float()
        return self._drawn[seed, size]


def choose(logits: Tensor, seen: Tensor, sampling: Sampling, noise: _SharedNoise) -> int:
    """The next token for one row: penalise, then greedy or nucleus sampling. logits (vocab,)."""
    logits = _penalise(logits.cpu(), seen, sampling.repetition_penalty)
    if sampling.temperature == 0:
        return _likeliest(logits)
    # Measured from the top, so that a tiny temperature gives -inf and never inf.
    scaled = _nucleus((logits - logits.max()) / sampling.temperature, sampling.top_p)
    # The argmax of logits plus Gumbel noise is a draw from their softmax.
    return _likeliest(scaled + noise.gumbel(sampling.seed, scaled.shape[0]))


def _likeliest(logits: Tensor) -> int:
    """The first of the greatest. numpy finds it in a tenth of the time that torch takes."""
    return int(logits.numpy().argmax())


def _penalise(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    if penalty == 1:
        return logits
    # numpy, because torch calls up its threads for as much as a vocabulary.
    found, places = logits.numpy().copy(), seen.numpy()
    picked = found[places]
    found[places] = np.where(picked > 0, picked / penalty, picked * penalty)
    return torch.from_numpy(found)


def _nucleus(logits: Tensor, top_p: float) -> Tensor:
    """Keep the smallest set of likeliest tokens that holds `top_p` of the probability."""
    if top_p >= 1:
        return logits
    # Sorting a whole vocabulary takes longer than a small model's step, and a few tokens mostly
    # hold what is kept.
    for n in (min(_LIKELY, len(logits)), len(logits)):
        ordered, order = logits.topk(n)
        chances = (ordered - logits.logsumexp(dim=0)).exp()
        before = chances.cumsum(dim=0) - chances
        if before[-1] >= top_p:
            break
    kept = order[before < top_p]
    return torch.full_like(logits, -torch.inf).index_copy_(0, kept, logits[kept])

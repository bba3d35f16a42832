"""The decode loop: rows in, steps out. Sampling, stopping and detokenising, no chats or screens.

`decode` drives the loop in its caller's thread; `saif.scheduler` drives it for many callers.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from tokenizers.decoders import DecodeStream
from torch import Tensor

from saif.core.types import Sampling as Sampling
from saif.runtime.batch import Batch, Row, StepResult
from saif.runtime.language_model import LanguageModel
from saif.runtime.prefix_cache import PrefixCache

_LIKELY = 256

StopReason = Literal["end", "length", "cancelled"]


@dataclass(frozen=True, slots=True)
class RowStep:
    """What one step gave one row."""

    row: int
    token_id: int | None
    """The new token; None when the row ended in this step."""
    text: str
    """What the token adds to the visible text; empty while a character is still incomplete."""
    steered: int
    """Positions of the residual stream that were changed to get here."""
    stop: StopReason | None
    """Why the row ended; None while it runs."""


Step = tuple[RowStep, ...]
"""One decoding step: an entry for each row that was still running."""

Delivery = Step | Exception | None
"""What a caller is sent: its steps, an exception if its rows fail, None after the last step."""


class _RowState:
    """What the loop knows of one running row."""

    def __init__(self, index: int, row: Row, model: LanguageModel) -> None:
        self.index = index
        self.sampling = row.sampling
        self.n_tokens = 0
        self.steered = 0  # positions, in all steps so far
        self.end_ids = model.end_ids
        seen = sorted(set(row.token_ids))
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

    def append(self, token: int, steered: int) -> RowStep:
        self.steered += steered
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


class RowGroup:
    """The rows of one caller. They share their noise, end one by one, and whatever becomes of
    them is sent to `deliver`.

    cancelled: asked before each step; once true, the rows still running end as "cancelled".
    """

    def __init__(
        self,
        model: LanguageModel,
        rows: Sequence[Row],
        deliver: Callable[[Delivery], None],
        cancelled: Callable[[], bool] = never,
    ) -> None:
        self.rows = rows
        self._deliver = deliver
        self._cancelled = cancelled
        self._noise = _SharedNoise()
        self._running = [_RowState(index, row, model) for index, row in enumerate(rows)]

    def __len__(self) -> int:
        """How many rows are still running."""
        return len(self._running)

    @property
    def steered(self) -> list[int]:
        """Positions steered so far, for each row still running."""
        return [state.steered for state in self._running]

    def sample(self, logits: Tensor, steered: Sequence[int]) -> tuple[list[int], list[int]]:
        """Draw a token for every running row and deliver the step. Raises nothing.

        logits (running rows, vocab); steered: positions that were steered for them. Returns which
        of these rows go on, and their tokens.
        """
        try:
            if self.end_if_cancelled():
                return [], []
            self._noise.next_step()
            tokens = [
                choose(logits[i], state.seen, state.sampling, self._noise)
                for i, state in enumerate(self._running)
            ]
            step = tuple(
                state.append(token, count)
                for state, token, count in zip(self._running, tokens, steered, strict=True)
            )
        except Exception as error:  # noqa: BLE001 - raised again where the rows were asked for
            self.fail(error)
            return [], []
        going_on = [i for i, row_step in enumerate(step) if row_step.stop is None]
        self._running = [self._running[i] for i in going_on]
        self._deliver(step)
        if not going_on:
            self._deliver(None)
        return going_on, [tokens[i] for i in going_on]

    def end_if_cancelled(self) -> bool:
        """Whether the rows were cancelled; if so they have had their last step."""
        if not self._cancelled():
            return False
        running, self._running = self._running, []
        self._deliver(tuple(RowStep(row.index, None, row.held, 0, "cancelled") for row in running))
        self._deliver(None)
        return True

    def fail(self, error: Exception) -> None:
        """End every row with an exception."""
        self._running = []
        self._deliver(error)


class DecodeBatch:
    """Row groups that decode together, in the order of the batch's rows.

    Two calls make a step: `sample` gives every group its tokens, `decode` runs the model on them.
    solo: it failed in company, and is merged with no other any more.
    """

    def __init__(
        self, groups: list[RowGroup], batch: Batch, result: StepResult, *, solo: bool = False
    ) -> None:
        self.groups = groups
        self.batch = batch
        self.solo = solo
        self.tokens: list[int] = []
        """Drawn by `sample` for the rows that go on, not yet run."""
        self._result = result

    def sample(self, cache: PrefixCache | None) -> None:
        """Draw every row's next token from the last step's logits, and deliver them. Rows that
        end are dropped, and what they hold is kept in `cache`."""
        first, going_on = 0, list[int]()
        self.tokens = []
        for group in self.groups:
            own = slice(first, first + len(group))
            kept, tokens = group.sample(self._result.logits[own], self._result.steered[own])
            going_on += [first + row for row in kept]
            self.tokens += tokens
            first = own.stop
        if cache is not None:
            cache.put(self.batch, sorted(set(range(first)) - set(going_on)))
        self.groups = [group for group in self.groups if len(group)]
        if self.groups:
            self.batch.keep(going_on)

    def decode(self, model: LanguageModel) -> None:
        """Run the model on the tokens just drawn."""
        self._result = model.decode_step(self.batch, self.tokens)

    def merge(self, other: "DecodeBatch") -> "DecodeBatch":
        """Both as one; neither may be used after that."""
        result = StepResult(
            torch.cat([self._result.logits, other._result.logits]),
            self._result.steered + other._result.steered,
        )
        return DecodeBatch(self.groups + other.groups, self.batch.merge(other.batch), result)


def decode(
    model: LanguageModel,
    rows: Sequence[Row],
    *,
    cache: PrefixCache | None = None,
    cancelled: Callable[[], bool] = never,
) -> Iterator[Step]:
    """Yield steps until every row has ended. Each row ends with exactly one `stop`.

    cache: where prefixes are looked up, and what rows hold is kept. `cancelled` is asked before
    each step; once true, the rows still running end as "cancelled". Dropping the iterator early
    is safe too: nothing outlives a step. Raises InputError for an empty prompt, and SteeringError
    if a row is not steered as asked.
    """
    delivered: deque[Delivery] = deque()
    group = RowGroup(model, rows, delivered.append, cancelled)
    running = DecodeBatch([group], *model.prefill(rows, cache=cache))
    while True:
        running.sample(cache)
        while delivered:
            step = delivered.popleft()
            if step is None:
                return
            if isinstance(step, Exception):
                raise step
            yield step
        running.decode(model)


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

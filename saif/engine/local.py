"""The one door to text: requests with whole conversations in, decoding steps out.

`Engine` is a protocol, so that a remote engine can stand behind the app, the command line and
the experiments as well as the local one.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch

from saif.background import BackgroundQueue
from saif.decoding import Row, Step, decode, never
from saif.engine.protocol import Request
from saif.errors import InputError, ModelError
from saif.presets.preset import ModelRef
from saif.runtime.batch import RowStart
from saif.runtime.language_model import LanguageModel
from saif.runtime.prefix_cache import PrefixCache
from saif.scheduler import Scheduler

TURN_BYTES = 512_000_000
"""For what a chat keeps of earlier turns: some ten thousand tokens of the embedded model."""


class LocalEngine:
    """The engine in this process.

    turn_bytes: how much memory may hold what was read in earlier turns, so that a turn reads only
    what is new in it. It changes no reply, and nothing is kept unless it is given.
    """

    def __init__(self, model: LanguageModel, *, turn_bytes: int = 0) -> None:
        self.language_model = model
        model.turns = PrefixCache(turn_bytes) if turn_bytes else None
        self._settling = BackgroundQueue("saif-settle") if turn_bytes else None

    def settled(self) -> None:
        """Wait until the replies of the last turns have been read anew."""
        if self._settling is not None:
            self._settling.wait()

    def forget(self, conversation: str | None = None) -> None:
        """Drop what is kept of this conversation, for good, or of every one so far; a next turn
        reads all of it again."""
        if self.language_model.turns is not None:
            self.language_model.turns.forget(conversation)

    @property
    def model(self) -> ModelRef:
        language_model = self.language_model
        return ModelRef(
            id=language_model.model_id,
            fingerprint=language_model.fingerprint,
            n_layers=language_model.n_layers,
            d_model=language_model.d_model,
        )

    @property
    def about(self) -> str:
        language_model = self.language_model
        bits = (
            f"{language_model.bits}-bit"
            if language_model.quantize == "none"
            else language_model.quantize
        )
        base = "" if language_model.is_chat else "base model, "
        size = f"{language_model.memory / 1e9:.1f} GB on {language_model.device.type}"
        decoder = language_model.decoder
        return f"{base}{bits}, {size}" + (f"; decoding {decoder.describe()}" if decoder else "")

    def stream(
        self, requests: Sequence[Request], *, cancelled: Callable[[], bool] = never
    ) -> Iterator[Step]:
        rows = [
            Row(
                prompt_ids=self._render(request),
                steering=request.steering,
                sampling=request.sampling,
                conversation=request.conversation,
            )
            for request in requests
        ]
        return _while_memory_lasts(self._settled(rows, self._decode(rows, cancelled)))

    def _decode(self, rows: Sequence[Row], cancelled: Callable[[], bool]) -> Iterator[Step]:
        return decode(self.language_model, rows, cancelled=cancelled)

    def _settled(self, rows: Sequence[Row], steps: Iterator[Step]) -> Iterator[Step]:
        """The steps; after the last one, steered replies are read anew in the background while a
        person reads them too. What was steered while it was written mostly is not as history."""
        replies: list[list[int]] = [[] for _ in rows]
        for step in steps:
            for each in step:
                if each.token_id is not None:
                    replies[each.row].append(each.token_id)
            yield step
        if self._settling is not None:
            for row, reply in zip(rows, replies, strict=True):
                if row.steering is not None and reply:
                    start = RowStart(
                        [*row.prompt_ids, *reply], row.steering, conversation=row.conversation
                    )
                    self._settling.add(partial(self.language_model.settle, start))

    def _render(self, request: Request) -> list[int]:
        messages = [{"role": m.role, "content": m.text} for m in request.messages]
        # No text has sixteen characters to a token throughout; beyond that, don't even try.
        limit = self.language_model.context_length - request.sampling.max_new_tokens
        if sum(len(m.text) for m in request.messages) > 16 * self.language_model.context_length:
            raise _too_long(limit)
        token_ids = self.language_model.render(messages)
        if len(token_ids) > limit:
            raise _too_long(limit, len(token_ids))
        return token_ids


class SharedEngine(LocalEngine):
    """The engine in this process for many callers at once, whose rows decode together."""

    def __init__(self, model: LanguageModel, *, turn_bytes: int = TURN_BYTES) -> None:
        super().__init__(model, turn_bytes=turn_bytes)
        self._batch = Scheduler(model)

    def _decode(self, rows: Sequence[Row], cancelled: Callable[[], bool]) -> Iterator[Step]:
        return self._batch.stream(rows, cancelled=cancelled)


def _while_memory_lasts(steps: Iterator[Step]) -> Iterator[Step]:
    try:
        yield from steps
    except RuntimeError as error:
        # A CPU's allocator has no exception of its own.
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate" not in str(error):
            raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        raise ModelError(
            "Memory ran out before the reply was finished.",
            hint="Clear the conversation, ask for fewer new tokens, or leave out a column.",
        ) from error


def _too_long(limit: int, n_tokens: int | None = None) -> InputError:
    found = f"{n_tokens:,} tokens" if n_tokens is not None else "far more"
    return InputError(
        f"The conversation is too long for this model: at most {max(limit, 0):,} tokens fit "
        f"beside the reply, this one has {found}.",
        hint="Shorten the message, clear the conversation or ask for fewer new tokens.",
    )

"""The engine in this process: inline for one caller, or scheduled for many."""

import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch

from saif.background import BackgroundQueue
from saif.decoding import Step, decode, never
from saif.engine.protocol import Request
from saif.errors import InputError, ModelError
from saif.presets.preset import ModelRef
from saif.runtime.batch import Row
from saif.runtime.language_model import LanguageModel
from saif.scheduler import Scheduler

CACHE_BYTES = 512_000_000
"""For the prefix cache of a chat: some ten thousand tokens of the embedded model."""


class LocalEngine:
    """The engine in this process; each call decodes in its caller's thread.

    cache_bytes: memory for a prefix cache, so that a turn prefills only what is new in it. It
    changes no reply.
    """

    def __init__(self, model: LanguageModel, *, cache_bytes: int = 0) -> None:
        self.language_model = model
        self.prefix_cache = model.new_prefix_cache(cache_bytes)
        self._reprefills = BackgroundQueue("saif-reprefill")
        self._in_flight = 0
        self._changed = threading.Condition()

    def forget(self, cache_key: str | None = None) -> None:
        """Drop what is kept under this key, for good, or all that is kept so far; a next turn
        prefills all of it again."""
        if self.prefix_cache is not None:
            self.prefix_cache.evict(cache_key)

    def background(self, before_pass: Callable[[], None]) -> "LocalEngine":
        """An engine on the same model for work that gives way to this one's callers.

        `before_pass` is called before each of its forward passes, where the work can
        `wait_until_idle`, or raise to end. It keeps no prefix cache: that would evict others.
        """
        return LocalEngine(self.language_model.with_before_pass(before_pass))

    def wait_until_idle(self, seconds: float) -> bool:
        """Whether no request is in flight, after waiting up to so many seconds for that."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._in_flight, seconds)

    def close(self) -> None:
        """End whatever still runs, so that the model's memory is free once nobody holds this."""
        self._reprefills.wait()

    def wait_for_reprefills(self) -> None:
        """Wait until the steered replies of the last turns are in the prefix cache."""
        self._reprefills.wait()

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
        bits = language_model.quantize.replace("none", f"{language_model.bits}-bit")
        base = "" if language_model.is_chat else "base model, "
        size = f"{language_model.memory / 1e9:.1f} GB on {language_model.device.type}"
        decoder = language_model.decoder
        return f"{base}{bits}, {size}" + (f"; decoding {decoder.describe()}" if decoder else "")

    def stream(
        self, requests: Sequence[Request], *, cancelled: Callable[[], bool] = never
    ) -> Iterator[Step]:
        rows = [
            Row(self._render(each), each.steering, sampling=each.sampling, cache_key=each.cache_key)
            for each in requests
        ]
        steps = self._steps(rows, cancelled)
        if self.prefix_cache is not None:
            steps = self._reprefilled(rows, steps)
        return self._counted(_while_memory_lasts(steps))

    def _steps(self, rows: Sequence[Row], cancelled: Callable[[], bool]) -> Iterator[Step]:
        return decode(self.language_model, rows, cache=self.prefix_cache, cancelled=cancelled)

    def _counted(self, steps: Iterator[Step]) -> Iterator[Step]:
        with self._changed:
            self._in_flight += 1
        try:
            yield from steps
        finally:
            with self._changed:
                self._in_flight -= 1
                self._changed.notify_all()

    def _reprefilled(self, rows: Sequence[Row], steps: Iterator[Step]) -> Iterator[Step]:
        """The steps; after the last one, steered replies are prefilled in the background while a
        person reads them: as a part of the next prompt, where a `response` span steers nothing."""
        replies: list[list[int]] = [[] for _ in rows]
        for step in steps:
            for each in step:
                if each.token_id is not None:
                    replies[each.row].append(each.token_id)
            yield step
        for row, reply in zip(rows, replies, strict=True):
            if row.steering is not None and reply:
                history = Row([*row.token_ids, *reply], row.steering, cache_key=row.cache_key)
                self._reprefills.add(partial(self._reprefill, history))

    def _reprefill(self, row: Row) -> None:
        assert self.prefix_cache is not None
        batch, _ = self.language_model.prefill([row], cache=self.prefix_cache)
        self.prefix_cache.put(batch, [0])

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

    def __init__(self, model: LanguageModel, *, cache_bytes: int = CACHE_BYTES) -> None:
        super().__init__(model, cache_bytes=cache_bytes)
        self._scheduler = Scheduler(model, cache=self.prefix_cache)

    def close(self) -> None:
        self._scheduler.close()
        super().close()

    def _steps(self, rows: Sequence[Row], cancelled: Callable[[], bool]) -> Iterator[Step]:
        return self._scheduler.stream(rows, cancelled=cancelled)


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

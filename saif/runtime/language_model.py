"""A loaded causal language model: tokens, residuals, log-probabilities, prefill and decode."""

import copy
import sys
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from ctypes import CDLL
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from saif.errors import InputError
from saif.runtime import introspect
from saif.runtime.batch import (
    Batch,
    Row,
    StepResult,
    check_directions,
    left_pad,
    shared_prefix,
    steer_weights,
    unsteered_prefix,
    verified,
)
from saif.runtime.catalog import Quantize
from saif.runtime.chat_template import Message, is_chat, render, turn_end
from saif.runtime.cpu.c_step import CDecoder, supports_c_step
from saif.runtime.cpu.torch_step import TorchDecoder, supports_torch_step
from saif.runtime.decoder import Decoder
from saif.runtime.hooks import Edit, edit_outputs
from saif.runtime.prefix_cache import NO_PREFIX, CachedPrefix, PrefixCache, restore
from saif.runtime.steering_hook import steering_hooks

_T = TypeVar("_T")


def _run_to_end(chunks: Generator[None, None, _T]) -> _T:
    """What a generator returns, without the pauses it makes."""
    while True:
        try:
            next(chunks)
        except StopIteration as done:
            result: _T = done.value
            return result


def _record(found: dict[int, Tensor], layer: int, resid: Tensor) -> Tensor:
    """An edit that changes nothing."""
    found[layer] = resid
    return resid


class LanguageModel:
    """A causal language model, its tokenizer and its decoder blocks.

    It keeps nothing between calls, and is always the plain model then, whatever happened: hooks,
    lock and inference mode open and close inside one forward pass. Safe to use from several
    threads, whose passes take turns.
    """

    def __init__(
        self, model_id: str, model: Any, tokenizer: Any, *, quantize: Quantize = "none"
    ) -> None:
        self.model_id = model_id
        self.quantize = quantize
        self.tokenizer = tokenizer
        self.is_chat, self.turn_end = is_chat(tokenizer), turn_end(tokenizer)
        self._model = model.eval()
        self.bits: int = 8 * model.dtype.itemsize  # of a weight that isn't quantized
        self.blocks = introspect.decoder_blocks(model)
        self._lock = threading.Lock()
        # The tokenizer switches its handling of control tokens to and fro while it encodes.
        self._tokenizing = threading.Lock()
        config = model.config.get_text_config()
        self.n_layers = len(self.blocks)
        self.d_model: int = config.hidden_size
        self.context_length: int = getattr(config, "max_position_embeddings", 0) or 1 << 30
        self._window = introspect.attention_window(config)
        self.control_ids = introspect.control_ids(tokenizer)
        self.end_ids = introspect.end_ids(model, tokenizer)
        self._pad_id = tokenizer.pad_token_id or tokenizer.eos_token_id or 0
        self.fingerprint = introspect.fingerprint(model)
        self.revision = ""  # the commit on the hub that the weights came from, if they did
        self.decoder: Decoder | None = None
        self._before_pass: Callable[[], None] | None = None

    def with_before_pass(self, before_pass: Callable[[], None]) -> "LanguageModel":
        """The same model for background work: `before_pass` is called before each forward pass,
        outside the lock, and may wait there or raise. Weights and lock are shared."""
        model = copy.copy(self)
        model._before_pass = before_pass
        return model

    @property
    def hf_model(self) -> Any:
        """The transformers model underneath, for what only transformers does."""
        return self._model

    @property
    def device(self) -> torch.device:
        """Where token ids have to be."""
        return introspect.execution_device(self._model.get_input_embeddings())

    @property
    def memory(self) -> int:
        """Bytes that the weights take."""
        return int(self._model.get_memory_footprint()) + (self.decoder.bytes if self.decoder else 0)

    # Text and tokens

    def render(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a chat up to and including the assistant header."""
        with self._tokenizing:
            return render(self.tokenizer, messages)

    def encode_text(self, text: str) -> list[int]:
        """Token ids of plain text, with no template and no special tokens."""
        options = {"add_special_tokens": False, "split_special_tokens": True}
        with self._tokenizing:
            return list(self.tokenizer.encode(text, **options))

    # Residuals and log-probabilities

    def residuals(
        self, sequences: Sequence[Sequence[int]], layers: Sequence[int], *, skip: int = 0
    ) -> tuple[dict[int, Tensor], Tensor]:
        """Residual streams after `layers`, and which positions are real.

        Returns {layer: (batch, pos, d_model)} and a mask (batch, pos). `skip` leading tokens,
        which all sequences must share (a system prompt, say), are run once for the whole batch
        and left out of the result.
        """
        if shared_prefix(sequences) < skip or any(len(s) <= skip for s in sequences):
            raise InputError(f"The sequences don't share their first {skip} tokens.")
        # A sliding window counts columns, and a short row's padding then stands between prefix and
        # rest; sequences that outgrow the window have to be run whole.
        apart = skip if max(map(len, sequences)) <= self._window else 0
        input_ids, mask, attention_mask, kv_cache = self._after_prefix(sequences, apart)
        found: dict[int, Tensor] = {}
        edits = {layer: partial(_record, found, layer) for layer in layers}
        self._forward(input_ids, attention_mask, kv_cache, edits)
        left = skip - apart
        rest = {layer: resid[:, left:] for layer, resid in found.items()}
        return rest, (mask.cumsum(dim=1) > left)[:, left:]

    @torch.inference_mode()
    def log_probabilities(
        self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]
    ) -> list[Tensor]:
        """log p (natural) of every continuation token given all before it, for (prompt,
        continuation) rows, under the plain model. A prompt of several rows is run once, and what
        all prompts share once for all of them."""
        full = [[*prompt, *continuation] for prompt, continuation in rows]
        heads = [tuple(prompt[:-1]) for prompt, _ in rows]
        apart = all(heads) and max(map(len, full)) <= self._window
        starts = [len(head) if apart else 0 for head in heads]
        input_ids, mask = self._left_pad(
            [row[start:] for row, start in zip(full, starts, strict=True)]
        )
        kv_cache, head_mask = self._run_heads(heads) if apart else (None, mask[:, :0])
        attention_mask = torch.cat([head_mask, mask], dim=1)
        keep = max(len(continuation) for _, continuation in rows) + 1
        out = self._forward(input_ids, attention_mask, kv_cache, {}, logits_to_keep=keep)
        found = []
        for logits, (_, continuation) in zip(out.logits, rows, strict=True):
            n = len(continuation)
            targets = torch.tensor(list(continuation), dtype=torch.long, device=logits.device)
            # Of a row as wide as the vocabulary only one number is wanted.
            before = logits[-n - 1 : -1].float()
            picked = before.gather(1, targets[:, None])[:, 0]
            found.append((picked - before.logsumexp(dim=-1)).cpu())
        return found

    def next_token_loss(
        self,
        sequences: Sequence[Sequence[int]],
        *,
        skip: int,
        replace: Mapping[int, Edit] | None = None,
    ) -> float:
        """Mean cross-entropy (nats) of each token after the first `skip`, given those before.

        `replace` edits residual streams on the way, to measure what a reconstruction costs.
        """
        input_ids, mask = self._left_pad(sequences)
        every = input_ids.shape[1]
        out = self._forward(input_ids, mask, None, replace or {}, logits_to_keep=every)
        scores = out.logits[:, :-1].float().log_softmax(dim=-1)
        per_token = scores.gather(2, input_ids[:, 1:, None])[:, :, 0]
        counted = mask.cumsum(dim=1)[:, 1:] > max(skip, 1)
        return float(-per_token[counted].mean())

    def logit_lens(self, vectors: Tensor, top: int) -> list[list[str]]:
        """The words each residual direction (n, d_model) raises most if it is the last thing
        added: final norm's weights, then the unembedding."""
        best = self.raised_tokens(vectors, top).tolist()
        return [[self.tokenizer.decode([token]) for token in row] for row in best]

    def raised_tokens(self, vectors: Tensor, top: int) -> Tensor:
        """The token ids (n, top) behind `logit_lens`."""
        return introspect.raised_most(self._model, vectors, top)

    # The one forward pass

    @torch.inference_mode()
    def _forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        kv_cache: Any,
        edits: Mapping[int, Edit],
        *,
        logits_to_keep: int = 1,
    ) -> Any:
        if self._before_pass is not None:
            self._before_pass()
        positions = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]
        with self._lock, edit_outputs(self.blocks, edits):
            return self._model(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=positions,
                past_key_values=kv_cache,
                use_cache=kv_cache is not None,
                logits_to_keep=logits_to_keep,
            )

    def _after_prefix(
        self, sequences: Sequence[Sequence[int]], skip: int
    ) -> tuple[Tensor, Tensor, Tensor, Any]:
        """What is left to run once the first `skip` tokens, the same in all, have been run as a
        single row: token ids, their mask, the whole attention mask, and the KV cache."""
        return _run_to_end(self._after_prefix_in_chunks(sequences, skip, [slice(0, skip)]))

    def _after_prefix_in_chunks(
        self, sequences: Sequence[Sequence[int]], skip: int, chunks: Sequence[slice]
    ) -> Generator[None, None, tuple[Tensor, Tensor, Tensor, Any]]:
        """As `_after_prefix`, with a pause after each of these chunks of the prefix."""
        kv_cache = self._new_kv_cache()
        input_ids, mask = self._left_pad([sequence[skip:] for sequence in sequences])
        if not skip:
            return input_ids, mask, mask, kv_cache
        prefix, ones = self._left_pad([sequences[0][:skip]])
        for chunk in chunks:
            self._forward(prefix[:, chunk], ones[:, : chunk.stop], kv_cache, {})
            yield
        kv_cache.reorder_cache(torch.zeros(len(sequences), dtype=torch.long, device=self.device))
        attention_mask = torch.cat([ones.expand(len(sequences), -1), mask], dim=1)
        return input_ids, mask, attention_mask, kv_cache

    def _run_heads(self, sequences: Sequence[tuple[int, ...]]) -> tuple[Any, Tensor]:
        """The KV kv_cache of what rows start with, and its attention mask. Equal ones run once."""
        distinct = list(dict.fromkeys(sequences))
        skip = min(shared_prefix(distinct), min(map(len, distinct)) - 1)
        input_ids, _, mask, kv_cache = self._after_prefix(distinct, skip)
        self._forward(input_ids, mask, kv_cache, {})
        rows = torch.tensor([distinct.index(each) for each in sequences], device=self.device)
        kv_cache.reorder_cache(rows)
        return kv_cache, mask[rows]

    def _new_kv_cache(self) -> Any:
        from saif.runtime.kv_cache import new_cache  # transformers comes with it

        return new_cache(self._model.config)

    def _left_pad(self, sequences: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        ids, mask = left_pad(sequences, self._pad_id)
        return ids.to(self.device), mask.to(self.device)

    # Prefill and decode

    def use_fast_decoder(self, library: CDLL | None = None) -> None:
        """Decode with the C step if there is a library and it supports the model, else with the
        torch step if that does, else as before. The model itself still does everything else."""
        if not supports_torch_step(self._model, self.blocks):
            return
        if library is None or not supports_c_step(self._model, self.blocks):
            self.decoder = TorchDecoder(self._model, self.blocks)
            return
        threads = torch.get_num_threads()
        # Quantizing is thousands of short calls, and each waits for the slowest thread: on a busy
        # machine, two threads took eight times as long as one.
        torch.set_num_threads(1)
        try:
            self.decoder = CDecoder(library, self._model, self.blocks)
        finally:
            torch.set_num_threads(threads)

    @property
    def rows_can_merge(self) -> bool:
        """Whether running batches may merge, and a row's prefix may come out of a cache: in models
        where every position sees all before it, however much padding stands between."""
        return self._window >= self.context_length

    def new_prefix_cache(self, limit: int) -> PrefixCache | None:
        """A prefix cache of up to `limit` bytes for this model; None if that is 0, or if its
        prefixes can't be cached (see `rows_can_merge`)."""
        return PrefixCache(limit, self.control_ids) if limit and self.rows_can_merge else None

    def prefill(
        self, rows: Sequence[Row], *, cache: PrefixCache | None = None
    ) -> tuple[Batch, StepResult]:
        """Run the model on every row's tokens; the logits are for the token after them.

        cache: where a row's prefix may be found, which is then not run again. Raises InputError if
        a row is empty, and SteeringError if one is not, or can't be, steered as asked.
        """
        return _run_to_end(self.prefill_in_chunks(rows, sys.maxsize, cache=cache))

    def prefill_in_chunks(
        self, rows: Sequence[Row], chunk_tokens: int, *, cache: PrefixCache | None = None
    ) -> Generator[None, None, tuple[Batch, StepResult]]:
        """As `prefill`, with a pause whenever `chunk_tokens` of all rows together have been run.
        What is steered in a chunk is verified with it."""
        if not rows or any(not row.token_ids for row in rows):
            raise InputError("There is nothing to read: a prompt is empty.")
        rows = [replace(row, token_ids=list(row.token_ids)) for row in rows]
        check_directions(rows, self.n_layers, self.d_model, self.model_id)
        prefixes = [NO_PREFIX if cache is None else cache.get(row) for row in rows]
        batch, input_ids, steered = yield from self._new_batch(rows, prefixes, chunk_tokens)
        width = input_ids.shape[1]
        weights = steer_weights(rows, width, self.control_ids)
        # A row that has fewer tokens left than the others begins with padding.
        own = batch.attention_mask[:, -width:].tolist()
        weights = [
            [w * n for w, n in zip(*pair, strict=True)] for pair in zip(weights, own, strict=True)
        ]
        for chunk in self._chunks(width, len(rows), chunk_tokens):
            if chunk.start:
                yield
            mask = batch.attention_mask[:, : batch.width - width + chunk.stop]
            so_far = Batch(rows, batch.cache, mask)
            result = self._step(so_far, [row[chunk] for row in weights], input_ids[:, chunk])
            steered = [n + before for n, before in zip(result.steered, steered, strict=True)]
        return batch, StepResult(result.logits, tuple(steered))

    def _chunks(self, width: int, n_rows: int, chunk_tokens: int) -> list[slice]:
        """Columns to run at once. A sliding window wants all of them together."""
        step = max(1, chunk_tokens // n_rows if self.rows_can_merge else width)
        return [slice(first, min(first + step, width)) for first in range(0, width, step)]

    def _new_batch(
        self, rows: list[Row], prefixes: Sequence[CachedPrefix], chunk_tokens: int
    ) -> Generator[None, None, tuple[Batch, Tensor, list[int]]]:
        """A batch with as much of its rows as can be had cheaply, the token ids that are left, and
        how many positions of each row were steered so far.

        Either each row's cached prefix, or what all rows share and none steers, run once as a
        single row: whichever leaves less to run.
        """
        sequences = [row.token_ids for row in rows]
        # A reply may outgrow a sliding window later: no padding may stand between prefix and rest.
        apart = self.rows_can_merge or len(set(map(len, sequences))) == 1
        skip = unsteered_prefix(rows, self.control_ids) if apart and len(rows) > 1 else 0
        left = max(len(ids) - old.length for ids, old in zip(sequences, prefixes, strict=True))
        if len(rows) * left < skip + len(rows) * (max(map(len, sequences)) - skip):
            kv_cache = self._new_kv_cache()
            restored = restore(kv_cache, prefixes, self.device)
            input_ids, mask = self._left_pad(
                [ids[old.length :] for ids, old in zip(sequences, prefixes, strict=True)]
            )
            batch = Batch(rows, kv_cache, torch.cat([restored, mask], dim=1))
            return batch, input_ids, [old.steered for old in prefixes]
        input_ids, _, attention_mask, kv_cache = yield from self._after_prefix_in_chunks(
            sequences, skip, self._chunks(skip, 1, chunk_tokens)
        )
        return Batch(rows, kv_cache, attention_mask), input_ids, [0] * len(rows)

    def decode_step(self, batch: Batch, token_ids: Sequence[int]) -> StepResult:
        """Append one token to every row; the logits are for the one after it. Raises SteeringError
        if a row was not steered as asked."""
        batch.append(token_ids)
        weights = steer_weights(batch.rows, 1, self.control_ids)
        if self.decoder is not None:
            return self._step(batch, weights, self.decoder)
        input_ids = torch.tensor([[token] for token in token_ids], device=self.device)
        return self._step(batch, weights, input_ids)

    @torch.inference_mode()
    def _step(
        self,
        batch: Batch,
        weights: Sequence[Sequence[float]],
        run: Tensor | Decoder,
    ) -> StepResult:
        """Run a batch's newest tokens: these ids (rows, pos), or one per row with a decoder, which
        takes them from the batch."""
        edits = steering_hooks(batch.rows, weights)
        if isinstance(run, Tensor):
            out = self._forward(run, batch.attention_mask, batch.cache, edits)
            logits = out.logits[:, -1].float()
        else:
            if self._before_pass is not None:
                self._before_pass()
            with self._lock:
                logits = run.step(batch, edits)
        counts = {layer: hook.counts for layer, hook in edits.items()}
        return StepResult(logits, verified(batch.rows, weights, counts))

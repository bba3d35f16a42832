"""ZeroGPU Spaces, where a GPU is lent for one call at a time to a process forked for it.

Nothing that such a call changes outlives it, and nothing outside can reach into it. So a call gets
plain requests and gives plain steps; Stop ends the listening to them, not the call, whose time is
bounded by what was asked for.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from saif.decoding import RowStep, Step, never
from saif.engine.local import LocalEngine
from saif.engine.protocol import Engine, Request
from saif.presets.preset import ModelRef

_START_SECONDS = 15
_SECONDS_PER_TOKEN = 0.15  # several columns of a 9B model, with a margin
_LONGEST_SECONDS = 120


def seconds_for(requests: Sequence[Request]) -> int:
    """How long to ask for a GPU: a shorter wait in the queue for a shorter reply."""
    longest = max((request.sampling.max_new_tokens for request in requests), default=0)
    return min(_LONGEST_SECONDS, round(_START_SECONDS + _SECONDS_PER_TOKEN * longest))


class ZeroGpuEngine:
    """A local engine whose replies are made in lent processes. To be built before the page is
    served: ZeroGPU looks for functions that want a GPU at the start."""

    def __init__(self, engine: LocalEngine) -> None:
        import spaces  # type: ignore[import-not-found]  # only there on Spaces

        def steps(requests: Sequence[Request]) -> Iterator[Step]:
            yield from engine.stream(requests)

        self._engine: Engine = engine
        self._steps: Any = spaces.GPU(duration=seconds_for)(steps)

    @property
    def model(self) -> ModelRef:
        return self._engine.model

    @property
    def about(self) -> str:
        return self._engine.about

    def forget(self, cache_key: str | None = None) -> None:
        """Nothing is kept where every call has a process of its own."""

    def stream(
        self, requests: Sequence[Request], *, cancelled: Callable[[], bool] = never
    ) -> Iterator[Step]:
        running = set(range(len(requests)))
        for step in self._steps(requests):
            if cancelled():
                yield tuple(RowStep(row, None, "", 0, "cancelled") for row in sorted(running))
                return
            running -= {row.row for row in step if row.stop is not None}
            yield step

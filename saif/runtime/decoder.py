"""What decodes: the steps after the prompt, computed by something faster than the model's class."""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from saif.runtime.batch import Batch
from saif.runtime.steering_hook import SteeringHook


class Decoder(Protocol):
    """Computes decoding steps with a model's weights, on the cache that its prefill wrote.

    Every implementation gives the model's own logits up to float32's rounding, unless `describe`
    says that weights were rounded; `tests/contract/test_decoders.py` holds for each.
    """

    @property
    def bytes(self) -> int:
        """Bytes of weights that it holds beside the model's."""
        ...

    def step(self, batch: Batch, edits: Mapping[int, SteeringHook]) -> Tensor:
        """Logits (rows, vocab), float32, after every row's newest token, the only one that the
        cache lacks. edits: layer -> what steers the residuals after that layer and counts."""
        ...

    def describe(self) -> str:
        """What it computes with, for people: kernel, bits of a weight, threads of the last step."""
        ...

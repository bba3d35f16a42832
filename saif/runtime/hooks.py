"""The only module that touches PyTorch hooks.

On saif's own models these context managers open and close within one forward pass and never span
a `yield`: between passes the model is always the plain model. `saif.steering` alone keeps them open
longer, on a model of the caller's.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from saif.errors import SteeringError

Edit = Callable[[Tensor], Tensor]
"""Maps a residual stream (batch, pos, d_model) to an edited one of the same shape and dtype."""


def _edited(edit: Edit, _module: nn.Module, _args: object, output: Any) -> Any:
    """The block's output with its residual stream, a tensor or the first of a tuple, edited."""
    resid = output[0] if isinstance(output, tuple) else output
    edited = edit(resid)
    if edited.shape != resid.shape or edited.dtype != resid.dtype:
        raise SteeringError(
            f"An edit turned {tuple(resid.shape)} {resid.dtype} "
            f"into {tuple(edited.shape)} {edited.dtype}."
        )
    return (edited, *output[1:]) if isinstance(output, tuple) else edited


@contextmanager
def edit_outputs(blocks: Sequence[nn.Module], edits: Mapping[int, Edit]) -> Iterator[None]:
    """Replace the output of `blocks[layer]` by `edits[layer](output)` while the body runs."""
    with ExitStack() as stack:
        for layer, edit in edits.items():
            stack.enter_context(blocks[layer].register_forward_hook(partial(_edited, edit)))
        yield


@contextmanager
def watch_calls(
    module: nn.Module,
    before: Callable[[tuple[Any, ...], dict[str, Any]], None],
    after: Callable[[], None],
) -> Iterator[None]:
    """Call `before(args, kwargs)` and `after()` around every forward call of `module`, changing
    nothing. `after` is left out where the call raises."""
    with (
        module.register_forward_pre_hook(lambda _, *given: before(*given), with_kwargs=True),
        module.register_forward_hook(lambda *_: after()),
    ):
        yield

"""How likely a model finds a text, out of the logits of a pass over it."""

from collections.abc import Sequence

import torch
from torch import Tensor


def of_continuations(logits: Tensor, continuations: Sequence[Sequence[int]]) -> list[Tensor]:
    """log p of every token of each row's continuation, which its pass ended with."""
    found = []
    for index, continuation in enumerate(continuations):
        n = len(continuation)
        targets = torch.tensor(list(continuation), dtype=torch.long, device=logits.device)
        # Of a row as wide as the vocabulary only one number is wanted.
        before = logits[index, -n - 1 : -1].float()
        picked = before.gather(1, targets[:, None])[:, 0]
        found.append((picked - before.logsumexp(dim=-1)).cpu())
    return found


def mean_loss(logits: Tensor, input_ids: Tensor, mask: Tensor, skip: int) -> float:
    """Mean cross-entropy (nats) of each token after a row's first `skip`."""
    scores = logits[:, :-1].float().log_softmax(dim=-1)
    per_token = scores.gather(2, input_ids[:, 1:, None])[:, :, 0]
    counted = mask.cumsum(dim=1)[:, 1:] > max(skip, 1)
    return float(-per_token[counted].mean())

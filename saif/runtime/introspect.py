"""Where things are in a transformers model, whatever its family calls them."""

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from saif.errors import ModelError


def decoder_blocks(model: Any) -> list[nn.Module]:
    """The decoder blocks, in order.

    Llama, Gemma, Qwen, GPT-2, GPT-NeoX and the rest give the list different names, but it is
    always a ModuleList of `num_hidden_layers` modules of one class. Vision towers are passed
    over, since the text model is what we steer.
    """
    wanted = model.config.get_text_config().num_hidden_layers
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        and len(module) == wanted
        and len({type(block) for block in module}) == 1
        and not ("vision" in name or "audio" in name)
    ]
    if not found:
        raise ModelError(
            f"No list of {wanted} decoder blocks was found in {type(model).__name__}.",
            hint="Only decoder-only language models can be steered.",
        )
    # Lists nested inside a block (experts, say) come later and deeper than the blocks themselves.
    return list(min(found, key=lambda item: item[0].count("."))[1])


@torch.inference_mode()
def raised_most(model: Any, vectors: Tensor, top: int) -> Tensor:
    """The tokens (n, top) that each (n, d_model) raises most through final norm and head."""
    head = model.get_output_embeddings()
    # On several GPUs a head that is tied to the embedding lies on the first, the norm on the last.
    device = execution_device(head)
    scaled = vectors.to(device) * _final_norm_weight(model).to(device)
    return head(scaled.to(head.weight.dtype)).topk(top, dim=-1).indices.cpu()


def execution_device(module: nn.Module) -> torch.device:
    """The device a module computes on; accelerate may keep its weights elsewhere until then."""
    hook = getattr(module, "_hf_hook", None)
    device = getattr(hook, "execution_device", None)
    return next(module.parameters()).device if device is None else torch.device(device)


def _final_norm_weight(model: Any) -> Tensor:
    """The weights of the norm between the last block and the unembedding."""
    inner = model.base_model
    inner = getattr(inner, "language_model", inner)  # the text half of a vision model
    for name in ("norm", "ln_f", "final_layer_norm", "final_layernorm"):
        norm = getattr(inner, name, None)
        if norm is None:
            continue
        # Measured, because Gemma and Qwen 3.5 store their weights minus one. The probe has mean 0
        # and length 1 per dimension, which leaves it alone in any norm.
        weight, device = norm.weight, execution_device(norm)
        probe = torch.ones(weight.shape, dtype=weight.dtype, device=device)
        probe[1::2] = -1
        return ((norm(probe) - norm(-probe)) / 2 * probe).float()
    raise ModelError(f"The final norm of {type(model).__name__} was not found.")


def control_ids(tokenizer: Any) -> frozenset[int]:
    """Ids of the tokens that give a chat its structure: BOS, turn markers, headers.

    `all_special_ids` alone knows only the tokens that have a role by name; Llama 3's headers, for
    one, are special without one.
    """
    added = tokenizer.added_tokens_decoder.items()
    return frozenset(tokenizer.all_special_ids) | {i for i, token in added if token.special}


def end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Every token that ends a reply."""
    ends = getattr(model.generation_config, "eos_token_id", None)
    ends = ends if isinstance(ends, Sequence) else [ends]
    return frozenset(end for end in [*ends, tokenizer.eos_token_id] if end is not None)


def attention_window(config: Any) -> int:
    """Up to how many tokens every position sees all before it, so that a prefix may be run
    apart; 0 for a model whose state can't tell padding after such a prefix from text."""
    kinds: list[str] = getattr(config, "layer_types", None) or []
    if any("attention" not in kind or "linear" in kind for kind in kinds):
        return 0
    return getattr(config, "sliding_window", 0) or 1 << 30


def fingerprint(model: Any) -> str:
    """A hash of the model that survives quantization but not a full finetuning.

    Taken over the one-dimensional parameters (norms and biases), rounded to bfloat16: every
    quantizer leaves them alone, and training all weights moves them. An adapter that leaves the
    norms alone can't be told apart this way; its model id can.
    """
    from accelerate.utils import align_module_device

    found: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        with align_module_device(module):  # brings what accelerate keeps elsewhere
            for own, parameter in module.named_parameters(recurse=False):
                if parameter.ndim == 1:
                    found[f"{name}.{own}"] = parameter.detach().to("cpu", torch.bfloat16)
    digest = hashlib.sha256()
    for name, values in sorted(found.items()):
        digest.update(f"{name}{tuple(values.shape)}".encode())
        digest.update(values.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]

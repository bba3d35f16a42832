"""Find the decoder blocks of a transformers model, whatever its family calls them."""

from typing import Any

from torch import nn

from saif.errors import ModelError


def decoder_blocks(model: Any) -> nn.ModuleList:
    """The list of decoder blocks, in order.

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
        and "vision" not in name
        and "audio" not in name
    ]
    if not found:
        raise ModelError(
            f"No list of {wanted} decoder blocks was found in {type(model).__name__}.",
            hint="Only decoder-only language models can be steered.",
        )
    # Lists nested inside a block (experts, say) come later and deeper than the blocks themselves.
    return min(found, key=lambda item: item[0].count("."))[1]

"""How a conversation becomes tokens: by the model's chat template, or as plain text."""

from collections.abc import Mapping, Sequence
from typing import Any

Message = Mapping[str, str]
"""{"role": "user" | "assistant" | "system", "content": text}"""

_PLAIN = (
    "{{ bos_token or '' }}{% for m in messages %}"
    "{{ {'user': 'User', 'assistant': 'Assistant'}.get(m['role'], 'Note') }}: {{ m['content'] }}"
    "\n\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
_PLAIN_END = "\nUser:"


def is_chat(tokenizer: Any) -> bool:
    """Whether the model was trained on conversations; a base model was not."""
    return bool(tokenizer.chat_template)


def turn_end(tokenizer: Any) -> str | None:
    """The text that ends a reply. A chat model says so with a token; a base model, which goes on
    with the next turn, only by writing it."""
    return None if is_chat(tokenizer) else _PLAIN_END


def render(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Token ids of a conversation up to where the reply begins.

    Control tokens inside a message stay text: nobody can forge a turn by typing `<|im_end|>`.
    """
    encoded = tokenizer.apply_chat_template(
        [dict(message) for message in messages],
        chat_template=None if is_chat(tokenizer) else _PLAIN,
        add_generation_prompt=True,
        sanitize_control_tokens=True,
    )
    return list(encoded["input_ids"])

"""Layout of the chat: the columns, the message box and its buttons. Nothing is wired here."""

from dataclasses import dataclass
from typing import Any

import gradio as gr


@dataclass(frozen=True)
class ChatPanel:
    status: gr.HTML
    unsteered: gr.Chatbot
    steered: gr.Chatbot
    prompted: gr.Chatbot
    prompted_column: gr.Column
    examples: gr.Dataset
    notice: gr.HTML
    message: gr.Textbox
    send: gr.Button
    stop: gr.Button
    retry: gr.Button
    clear: gr.Button


def chat_panel(status_html: str, problems: str) -> ChatPanel:
    """status_html, problems: what the page and its notice say from the start, as HTML."""
    status = gr.HTML(status_html, elem_id="status", padding=False)
    with gr.Row(elem_id="columns"):
        unsteered, _ = _column(
            "Unsteered", "the model as it is", "What the model says by itself appears here."
        )
        steered, _ = _column(
            "Steered",
            "pushed from inside",
            "The same message, with the instruction pushed into the model’s activations. "
            "Not a word is added to what it reads.",
        )
        prompted, prompted_column = _column(
            "Prompted",
            "told in words",
            "The same message, with the instruction written into it.",
            visible=False,
        )
    with gr.Column(elem_id="ask"):
        examples = gr.Dataset(
            components=[gr.Textbox(render=False)],
            samples=[],
            show_label=False,
            layout="gallery",
            samples_per_page=20,
            elem_id="examples",
        )
        notice = gr.HTML(problems, elem_id="notice", padding=False)
        with gr.Row(elem_id="message-row"):
            message = gr.Textbox(
                label="Message",
                show_label=False,
                container=False,
                placeholder="Write a message",
                lines=1,
                max_lines=8,
                autofocus=True,
                scale=10,
                elem_id="message",
            )
            send = _button("Send", variant="primary", min_width=88)
            stop = _button("Stop", variant="stop", min_width=88, visible=False)
        with gr.Row(elem_id="after-row"):
            retry = _button("Retry", size="sm", interactive=False)
            clear = _button("Clear", size="sm", interactive=False)
            gr.HTML('<p class="hint">Enter sends, Shift+Enter starts a new line</p>', padding=False)
    return ChatPanel(
        status=status,
        unsteered=unsteered,
        steered=steered,
        prompted=prompted,
        prompted_column=prompted_column,
        examples=examples,
        notice=notice,
        message=message,
        send=send,
        stop=stop,
        retry=retry,
        clear=clear,
    )


def _button(title: str, **more: Any) -> gr.Button:
    return gr.Button(title, scale=0, elem_id=title.lower(), **more)


def _column(
    title: str, meaning: str, empty: str, *, visible: bool = True
) -> tuple[gr.Chatbot, gr.Column]:
    name = title.lower()
    with gr.Column(elem_classes=["chat-column", name], min_width=220, visible=visible) as column:
        gr.HTML(f"<h2>{title}</h2><p>{meaning}</p>", elem_classes=["column-head"], padding=False)
        chatbot = gr.Chatbot(
            label=title,
            show_label=False,
            container=False,
            height="100%",
            buttons=["copy"],
            feedback_options=None,
            layout="bubble",
            latex_delimiters=[],
            placeholder=empty,
            elem_id=f"chat-{name}",
        )
    return chatbot, column

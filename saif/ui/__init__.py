"""The Gradio page: `*_panel` draws, `*_handlers` says what happens, `app` wires them once."""

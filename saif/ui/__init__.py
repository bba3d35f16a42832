"""The Gradio page: panels are drawn in `panels`, wired once in `app`."""

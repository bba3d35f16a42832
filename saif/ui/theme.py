"""The page's theme. System fonts only: the page asks no other host for anything."""

from pathlib import Path

import gradio as gr


def stylesheets() -> list[Path]:
    """In the order they apply. They build on gradio's theme variables, so that light and dark
    follow by themselves."""
    folder = Path(__file__).parent / "style"
    names = ("frame", "columns", "message", "panel", "narrow")
    return [folder / f"{name}.css" for name in names]


def theme() -> gr.themes.Base:
    return gr.themes.Base(
        primary_hue=gr.themes.colors.teal,
        secondary_hue=gr.themes.colors.teal,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_md,
        text_size=gr.themes.sizes.text_md,
        font=["system-ui", "-apple-system", "Segoe UI", "Noto Sans", "sans-serif"],
        font_mono=["ui-monospace", "Menlo", "Consolas", "monospace"],
    )

"""What participants and researchers see in a browser: plain pages on a server without gradio."""

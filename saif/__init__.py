"""saif: find, calibrate and steer instruction latents of a chat model.

Importing this package costs nothing; torch, transformers, gradio and sae-lens load where they
are used.
"""

__version__ = "0.1.0"

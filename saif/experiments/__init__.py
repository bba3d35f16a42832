"""Train SAEs, identify latents, calibrate presets and measure them."""

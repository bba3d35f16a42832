"""The only room for PyTorch hooks, transformers, bitsandbytes, accelerate and sae-lens."""

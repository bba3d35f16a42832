"""Train SAEs: the corpus, its activations, the trainer and the whole of it."""

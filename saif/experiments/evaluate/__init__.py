"""Score presets beside baselines: plan, replies, scores, the run's folder and its summary."""

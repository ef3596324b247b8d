"""Training: its steps in `train`, what they need in the modules beside it."""

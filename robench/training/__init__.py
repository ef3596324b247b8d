"""Training, to be read from `train`: `preparation` before the first step, `epochs` of `steps`, and what those need beside them."""

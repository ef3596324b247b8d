"""Training, to be read from `train`: `preparation` first, then `epochs` of `steps`, then `final_measurement`, and what those need."""

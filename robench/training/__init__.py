"""Training, to be read from `train`: `preparation` before the first step, `epochs` of `steps`, `final_measurement` at the end, and what those need."""

"""robench: robustness benchmarks and saliency audits of image classifiers."""

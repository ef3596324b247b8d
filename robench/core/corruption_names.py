"""The names of Hendrycks & Dietterich, ICLR 2019, 1903.12261: fifteen corruptions in four families make the benchmark, four more are for
validation, each at the severities 1 to 5."""

from __future__ import annotations

FAMILIES = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}
NOISES = FAMILIES["noise"]  # on ImageNet-C, what IGD (2305.09305) was tested with
FIFTEEN = tuple(name for family in FAMILIES.values() for name in family)
EXTRA = {"speckle_noise": "noise", "gaussian_blur": "blur", "spatter": "weather", "saturate": "digital"}  # name -> family
NINETEEN = (*FIFTEEN, *EXTRA)
SETS = {"fifteen": FIFTEEN, "nineteen": NINETEEN, "noise": NOISES}
SEVERITIES = (1, 2, 3, 4, 5)
CorruptionCell = tuple[str, int]  # a corruption and its severity

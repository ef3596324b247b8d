"""The names of Hendrycks & Dietterich, ICLR 2019, 1903.12261: fifteen corruptions in four families make the benchmark, four more are for
validation, each at the severities 1 to 5; and those of sets that come as files alone: C-bar and 3DCC."""

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

# Mintun, Kirillov & Xie, NeurIPS 2021, 2102.11273: each corruption with the number that makes each severity, by which its folder is called
# where facebookresearch/augmentation-corruption has written the set (with two decimals; the set that it offers as files has 1 to 5).
C_BAR_NUMBERS = {
    "cifar10-c-bar": {
        "blue_noise_sample": (0.7, 1.4, 2.1, 3.5, 4.2), "brownish_noise": (2.5, 4, 5.5, 6.5, 7), "checkerboard_cutout": (1, 2, 3, 4, 5),
        "inverse_sparkles": (1, 1.5, 2.5, 4.5, 5), "pinch_and_twirl": (5.5, 6, 6.5, 8.5, 10), "ripple": (5.5, 6, 6.5, 7.5, 8),
        "circular_motion_blur": (2.8, 3.6, 4.4, 5.2, 6), "lines": (0.5, 1, 1.5, 2, 2.5), "sparkles": (0.7, 3.5, 5.6, 6.3, 7),
        "transverse_chromatic_abberation": (1, 2, 5, 9, 10),
    },
    "imagenet-c-bar": {
        "blue_noise_sample": (0.8, 1.6, 2.4, 4, 5.6), "brownish_noise": (1, 2, 3, 4, 5), "caustic_refraction": (2.35, 3.2, 4.9, 6.6, 9.15),
        "checkerboard_cutout": (2, 3, 4, 5, 6), "cocentric_sine_waves": (3, 5, 8, 9, 10), "inverse_sparkles": (1, 2, 4, 9, 10),
        "perlin_noise": (4.6, 5.2, 5.8, 7.6, 8.8), "plasma_noise": (4.75, 7, 8.5, 9.25, 10),
        "single_frequency_greyscale": (1, 1.5, 2, 4.5, 5), "sparkles": (1, 2, 3, 5, 6),
    },
}  # fmt: skip
# Kar, Yeo, Atanov & Zamir, CVPR 2022, 2203.01441: the twelve that were made of ImageNet's validation images.
THREE_D = (
    "near_focus", "far_focus", "xy_motion_blur", "z_motion_blur", "flash", "fog_3d", "bit_error", "h265_abr", "h265_crf", "color_quant",
    "iso_noise", "low_light",
)  # fmt: skip
ON_DISK = {**{name: tuple(numbers) for name, numbers in C_BAR_NUMBERS.items()}, "imagenet-3dcc": THREE_D}  # set -> its corruptions
EVERY_NAME = tuple(dict.fromkeys((*NINETEEN, *(name for names in ON_DISK.values() for name in names))))
CorruptionCell = tuple[str, int]  # a corruption and its severity

"""The vocabulary: what one measurement, one threat, one recipe, one random draw is; files and folders; checks of what a user hands over."""

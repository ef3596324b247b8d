"""What each metric of the rows means, in a sentence, and which direction is better: what the page of a run tells beside its numbers."""

from __future__ import annotations

from collections.abc import Collection

from robench.scores import SCORE_FACTS
from robench.scores.facts import HIGHER, LOWER, NEITHER, ScoreFacts
from robench.scores.geometry import JACOBIAN_SCORES

OWN_SCORE_MEANING = (ScoreFacts().meaning, ScoreFacts().better)

# the name of a metric, or */SUFFIX, or PREFIX/*: (what it is, which direction is better)
METRICS: dict[str, tuple[str, str]] = {
    # accuracy under attack
    "accuracy": ("The share of images whose label the model gives.", HIGHER),
    "rounded_accuracy": (
        "The robust accuracy at the smallest radius where every adversarial image is rounded to 8 bits, as a picture file holds it.",
        HIGHER,
    ),
    "class_accuracy": (
        "The accuracy of one class, which the setting names: of the clean images, of what stands after all attacks of a cascade, or the "
        "mean over corruptions.",
        HIGHER,
    ),
    "worst_class_accuracy": (
        "The lowest accuracy of all classes. It was chosen by looking, so its interval is that of the lowest true accuracy, whichever "
        "class that is: each class has an interval at a level that allows for all of them (Bonferroni), and its ends are the lowest of "
        "their lower and the lowest of their upper ends.",
        HIGHER,
    ),
    "success_rate": (
        "The share of the images that an attack was given on which it reached what it was after: any wrong label, or of a targeted "
        "attack its target alone; it was given what still stood.",
        LOWER,
    ),
    "outputs": ("Among how many outputs of the model the label is chosen: those of the data's classes; without such a row, all.", NEITHER),
    "seconds": ("The time that it took.", NEITHER),
    "forwards": ("Forward passes of the model, summed over images.", NEITHER),
    "backwards": ("Backward passes of the model, summed over images.", NEITHER),
    "check/*": ("The evidence of a diagnostic that found nothing wrong.", NEITHER),
    "flag/*": ("The evidence of a diagnostic that was raised: a sign that the numbers cannot be trusted as they are.", NEITHER),
    # probes
    "error_rate": (
        "The share of the images right before a probe (when clean; of a probe X on Y, after Y) on which the model is wrong under it, a "
        "mean over its draws.",
        LOWER,
    ),
    "error_rate_shared": (
        "The same over the images that all models of the run get right, as papers do it; it changes with the list of models.",
        LOWER,
    ),
    "changed_share": ("The share of the image that a probe was to change, a mean over images and draws.", NEITHER),
    # corruptions
    "mean_accuracy": ("The accuracy under a corruption, a mean over severities; over several corruptions a mean of those means.", HIGHER),
    "mean_error": ("One less mean_accuracy, over all corruptions that were measured.", LOWER),
    "mean_corruption_error": (
        "The error, a mean over the fifteen corruptions (of C-bar and 3DCC over all of the set) of means over five severities, divided by "
        "nothing.",
        LOWER,
    ),
    "mean_corruption_error_19": ("The same over nineteen corruptions, with the four that are for validation.", LOWER),
    "relative_error": ("The error under corruptions less the clean error.", LOWER),
    "relative_accuracy": ("The accuracy under corruptions as a part of the clean accuracy.", HIGHER),
    "noise_accuracy": ("mean_accuracy over the three corruptions by noise.", HIGHER),
    "blur_accuracy": ("mean_accuracy over the four corruptions by blur.", HIGHER),
    "weather_accuracy": ("mean_accuracy over the four corruptions by weather.", HIGHER),
    "digital_accuracy": ("mean_accuracy over the four digital corruptions.", HIGHER),
    "ce": (
        "The errors under a corruption, summed over severities, divided by those of the reference model: 100 % is as bad as that.",
        LOWER,
    ),
    "relative_ce": ("The errors that a corruption adds to the clean ones, divided by those that it adds to the reference model's.", LOWER),
    "mce": ("The mean of ce over the fifteen corruptions: 100 % is as bad as the reference model.", LOWER),
    "relative_mce": ("The mean of relative_ce over the fifteen corruptions; a model that is bad when clean can have a low one.", LOWER),
    "reference_accuracy": ("The accuracy of the reference model itself.", NEITHER),
    # sequences
    "flip_probability": (
        "The share of the comparisons between frames of a sequence in which the label that the model gives changes, a mean over sequences: "
        "of a noise with the first frame, else with the one before.",
        LOWER,
    ),
    "mean_flip_probability": ("The mean of flip_probability over the perturbations that the setting counts.", LOWER),
    "flip_rate": ("The flip probability divided by that of the reference model: 100 % is as unsteady as that.", LOWER),
    "mfr": ("The mean of flip_rate over ten perturbations (mFR of the paper, whose reference is AlexNet).", LOWER),
    "top5_distance": (
        "By how many ranks the five likeliest labels move between compared frames, summed, from 0 to 15; a mean over sequences.",
        LOWER,
    ),
    "mean_top5_distance": ("The mean of top5_distance over the perturbations that the setting counts.", LOWER),
    "relative_top5_distance": ("The top-5 distance divided by that of the reference model.", LOWER),
    "mt5d": ("The mean of relative_top5_distance over ten perturbations (mT5D of the paper, whose reference is AlexNet).", LOWER),
    "reference_flip_probability": ("The flip probability of the reference model itself.", NEITHER),
    "reference_top5_distance": ("The top-5 distance of the reference model itself.", NEITHER),
    # scores of saliency maps
    **{name: (its.meaning, its.better) for name, its in SCORE_FACTS.items() if name not in JACOBIAN_SCORES},
    "zero_maps": ("How many maps are zero everywhere; they have no scores and are left out.", LOWER),
    "nonfinite_maps": ("How many maps hold NaN or infinite numbers; they are left out.", LOWER),
    # the model's slopes
    **{name: (its.meaning, its.better) for name, its in JACOBIAN_SCORES.items()},
    # trainings of a sweep
    "seed_mean": ("Mean of an accuracy over trainings that differ in the seed.", HIGHER),
    "seed_sd": ("Its standard deviation over these, with one less than their number.", NEITHER),
    "seeds": ("How many of them there are.", NEITHER),
    "seeds_left_out": ("How many of them diverged or were ended by their guard: the mean goes over the others.", LOWER),
    "on_front": ("Whether no other training has both a higher clean and a higher robust accuracy: 1 or 0.", HIGHER),
    "epoch": ("The epoch whose weights were kept.", NEITHER),
    "diverged": ("1 where the training diverged, and has no accuracies.", LOWER),
    "alarm": ("1 where the last epoch raised an alarm.", LOWER),
    "flags": ("How many flags the final measurement raised.", LOWER),
    # what is told of each score
    "*/sd": ("The standard deviation of a score over images; of an error rate over draws.", NEITHER),
    "*/q05": ("The value of a score that 5 % of the images lie below.", NEITHER),
    "*/q25": ("The value of a score that 25 % of the images lie below.", NEITHER),
    "*/median": ("The value of a score that half of the images lie below.", NEITHER),
    "*/q75": ("The value of a score that 75 % of the images lie below.", NEITHER),
    "*/q95": ("The value of a score that 95 % of the images lie below.", NEITHER),
    "*/right": ("The mean of a score over the images that the model gets right.", NEITHER),
    "*/margin_correlation": (
        "Spearman's rank correlation of a score with the clean margin, over the images that the model gets right.",
        NEITHER,
    ),
    "*/fallen": ("The mean of a score of the clean images that fall under an attack, a probe or a corruption.", NEITHER),
    "*/standing": ("The mean of a score of the clean images that stand there.", NEITHER),
    "*/difference": ("The first less the second: 0 where a score does not tell who falls.", NEITHER),
    "*/superiority": ("The chance that a score of a fallen image is above that of a standing one, ties half: 0.5 tells nothing.", NEITHER),
    "*/shift": ("By how much a score of the changed image is above that of the same image when clean, a mean.", NEITHER),
}


# what the accuracies of a run are besides, by what there is in it
ACCURACY_SENTENCES = {
    "clean": "Under the probe clean: as they are.",
    "corruption": "Under a corruption: as it leaves them, at one severity.",
    "attack": "After an attack: what is right still after it and all before it at the same radius and smaller ones, which is the robust "
    "accuracy; a weak attack leaves it too high.",
    "worst": "In the norm worst: what stands under each of the threats, image by image.",
    "on": "X on Y: after X on the images that Y made; what is wrong after Y counts as wrong.",
}


def accuracy_sentence(there: Collection[str]) -> str:
    """What the accuracies of a run are, by which keys of ACCURACY_SENTENCES are `there`."""
    return " ".join([METRICS["accuracy"][0], *(sentence for what, sentence in ACCURACY_SENTENCES.items() if what in there)])


def metric_key(metric: str) -> str:
    """Under which name METRICS knows a metric: its own, */SUFFIX or PREFIX/*; "" for scores of the user's own."""
    head, slash, tail = metric.partition("/")
    last = metric.rpartition("/")[2]
    candidates = [metric, *([f"{head}/*", f"*/{tail}", f"*/{last}"] if slash else [])]
    return next((name for name in candidates if name in METRICS), "")


def metric_meaning(metric: str) -> tuple[str, str]:
    """What a metric is, and which direction is better."""
    return METRICS[name] if (name := metric_key(metric)) else OWN_SCORE_MEANING

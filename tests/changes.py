"""What a stage makes of some images, and the audit of one model's maps, for tests of what is measured on changed ones."""

from dataclasses import replace

from robench import saliency
from robench.core.model_calls import with_gradients
from robench.core.recipes import parse_recipe
from robench.core.rows import blank_row
from robench.core.threat import Threat
from robench.evaluation.plans import change_stage
from robench.results.scores import all_subject_scores, change_of
from robench.runs.execution import execute
from robench.runs.pools import pool_of
from robench.runs.stages.clean import clean_stage
from robench.runs.types import RunOptions, Subject

ABOUT = replace(blank_row(), checkpoint="model")


def changed(sentence, model, x, y, *, ids=None, norm="linf", eps=0.05, seed=0, batch_size=250):
    """What an attack, a probe of one level or a corruption makes of the images for the model."""
    how, pool, clean = RunOptions(seed, batch_size), pool_of(x, y, ids), clean_stage()
    stage = change_stage(parse_recipe(sentence), pool, Threat(norm, eps), how, clean=clean)
    found = execute([Subject(model, ABOUT)], pool, [clean, stage], how)
    return change_of(found, found.cases[0], stage)


@with_gradients
def audited(model, x, y, **words):
    """The audit of one model, as rows and samples follow from it; the words are those of `robench.saliency`."""
    return all_subject_scores(saliency(Subject(model, ABOUT), x, y, **words).run)[0]

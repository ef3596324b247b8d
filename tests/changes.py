"""What a stage makes of some images, for tests of what is measured on changed ones."""

from dataclasses import replace

from robench.plans import change_stage
from robench.recipes import parse
from robench.results.scores import change_of
from robench.rows import blank
from robench.runs.measure import How, execute
from robench.runs.pools import pool_of
from robench.runs.stages.clean import clean_stage
from robench.runs.types import Subject
from robench.threat import Threat

ABOUT = replace(blank(), checkpoint="model")


def changed(sentence, model, x, y, *, ids=None, norm="linf", eps=0.05, seed=0, batch_size=250):
    """What an attack, a probe of one level or a corruption makes of the images for the model."""
    how, pool, clean = How(seed, batch_size), pool_of(x, y, ids), clean_stage()
    stage = change_stage(parse(sentence), pool, Threat(norm, eps), how, clean=clean)
    found = execute([Subject(model, ABOUT)], pool, [clean, stage], how)
    return change_of(found, found.cases[0], stage)

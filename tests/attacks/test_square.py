"""Square: what a candidate may change, what is taken, who is asked, and the authors' own code with the same random numbers."""

import pytest
import torch
from pyautoattack.square import SquareAttack
from recording import Listening
from torch import nn

from robench.attacks.active import Search
from robench.attacks.losses import margin
from robench.attacks.square import (
    QUERY_BLOCK,
    candidate_delta,
    last_axis_norm,
    square,
    window_patterns,
    window_places,
    window_share,
    window_side,
)
from robench.core.draws import Draws
from robench.core.errors import InputError
from robench.core.threat import NORMS, Threat

EPS = {"linf": 0.06, "l2": 0.5, "l1": 2.5}
ORDER = {"l2": 2.0, "l1": 1.0}


class Constant(nn.Module):
    """The same logits for every image."""

    def __init__(self, *logits):
        super().__init__()
        self.row = torch.tensor(logits)

    def forward(self, x):
        return self.row.expand(len(x), -1).clone()


def attack(p, threat, ids=None, model=None, **options):
    """Square on the samples `ids` of a problem."""
    ids = torch.arange(len(p.x)) if ids is None else torch.as_tensor(ids)
    return square(model or p.model, p.x[ids], p.y[ids], threat, p.draws().take(ids), **options)


def in_float64(p):
    """The problem in float64."""
    return type(p)(p.model.double(), p.x.double(), p.y)


def extent(marked):
    """From the first to the last marked place of each row, (R, L) -> (R,); 0 where none is."""
    places_ = torch.arange(marked.shape[1])
    first = torch.where(marked, places_, marked.shape[1]).amin(1)
    return torch.where(marked.any(1), torch.where(marked, places_, -1).amax(1) - first + 1, 0)


# What a candidate is


def test_every_linf_coordinate_ever_asked_about_is_at_a_corner_of_ball_and_box(problem):
    p = problem("convolutional", n=16)
    low, high = (p.x - 0.02).clamp(0, 1), (p.x + 0.02).clamp(0, 1)
    stubborn = Listening(Constant(1.0, 0.0))
    square(stubborn, p.x, torch.zeros(16, dtype=torch.long), Threat("linf", 0.02), p.draws(), queries=60)
    assert len(stubborn.asked) == 61
    assert all(((points == low) | (points == high)).all() for points in stubborn.asked)
    for query, points in enumerate(stubborn.asked[1:]):  # a loss that is only equal is not taken: all start from the stripes
        changed = (points != stubborn.asked[0]).any(1)
        assert (extent(changed.any(2)) <= window_side(window_share(query, 0.8), 8, 8, odd=False)).all()


def test_a_linf_run_starts_with_vertical_stripes(problem):
    p = problem("linear", n=20)
    watched = Listening(p.model)
    attack(p, Threat("linf", 0.01), model=watched, queries=1)
    up = watched.asked[0] > p.x
    assert torch.equal(up, up[:, :, :1].expand_as(up))
    assert 0.4 < up[:, :, 0].float().mean() < 0.6


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 6, 9), (1, 12, 7)])
def test_a_linf_candidate_differs_from_the_best_point_in_one_window_with_one_sign_per_channel(problem, shape):
    p = in_float64(problem("linear", n=16, shape=shape))
    eps, watched = 1e-4, Listening(p.model)
    found = attack(p, Threat("linf", eps), model=watched, queries=300)
    assert not found.fooled.any()
    x_best, best = watched.asked[0], margin(p.model(watched.asked[0]), p.y)
    low, high = (p.x - eps).clamp(0, 1), (p.x + eps).clamp(0, 1)
    taken = 0
    for query, points in enumerate(watched.asked[1:]):
        length = window_side(window_share(query, 0.8), *shape[1:], odd=False)
        changed = points != x_best
        assert (extent(changed.any(1).any(2)) <= length).all()
        assert (extent(changed.any(1).any(1)) <= length).all()
        down, up = ((changed & (points == corner)).flatten(2).any(2) for corner in (low, high))
        assert not (down & up).any()
        losses = margin(p.model(points), p.y)
        rose = losses > best
        taken += int(rose.sum())
        x_best, best = torch.where(rose[:, None, None, None], points, x_best), torch.maximum(losses, best)
    assert taken > 100


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_a_move_empties_one_window_into_another_and_uses_what_the_ball_left(norm):
    g = torch.Generator().manual_seed(0)
    delta = torch.randn((40, 3, 9, 9), generator=g, dtype=torch.float64)
    threat = Threat(norm, 30.0 if norm == "l2" else 400.0)
    at, source = (window_places(torch.rand((40, 2), generator=g), 3, (3, 9, 9)) for _ in range(2))
    pattern = window_patterns(3, ORDER[norm], delta).flatten(1)[torch.zeros(40, dtype=torch.long)][:, None].expand(-1, 3, -1)
    new = candidate_delta(threat, delta, at, source, pattern, torch.empty_like(delta)).flatten(2)
    old, order = delta.flatten(2), ORDER[norm]
    inside, other = torch.zeros_like(old).scatter(2, at, 1) > 0, torch.zeros_like(old).scatter(2, source, 1) > 0
    assert (new[other & ~inside] == 0).all()
    assert torch.equal(new[~other & ~inside], old[~other & ~inside])
    size, both = last_axis_norm(old.flatten(1), order)[:, None], last_axis_norm(old * (inside | other), order)
    budget = (threat.eps - size) + 3 * both if norm == "l1" else ((threat.eps**2 - size**2) / 3 + both**2).sqrt()
    assert torch.allclose(last_axis_norm(new * inside, order), budget, rtol=1e-9)
    mixed = pattern + old.gather(2, at) / last_axis_norm(old.gather(2, at), order)
    assert torch.allclose(new.gather(2, at) / budget, mixed / last_axis_norm(mixed, order), rtol=1e-9)


@pytest.mark.parametrize(("norm", "eps"), [("l2", 0.5), ("l1", 6.0), ("l1", 0.3)])
def test_every_point_asked_about_lies_in_ball_and_box_and_nearly_fills_an_l1_ball(problem, norm, eps):
    p = in_float64(problem("linear", n=16, classes=3, shape=(3, 12, 12)))
    stubborn, threat = Listening(Constant(1.0, 0.0, -1.0)), Threat(norm, eps)
    square(stubborn, p.x, torch.zeros(16, dtype=torch.long), threat, p.draws(), queries=80)
    assert len(stubborn.asked) == 81
    for points in stubborn.asked:
        sizes = threat.distance(p.x, points)
        assert ((points >= 0) & (points <= 1)).all()
        assert (sizes <= eps * (1 + 2e-6)).all()
        assert (sizes >= (eps * (1 - 1e-4) if norm == "l1" else 0.4 * eps)).all()


@pytest.mark.parametrize("norm", NORMS)
def test_windows_are_drawn_anew_in_every_block_and_restart_for_every_sample(norm, monkeypatch):
    x, y = torch.full((16, 8, 6, 6), 0.5), torch.zeros(16, dtype=torch.long)
    drawn, plain = [], Draws.uniform
    monkeypatch.setattr(Draws, "uniform", lambda self, *args: drawn.append(plain(self, *args)) or drawn[-1])
    stubborn = Listening(Constant(1.0, 0.0))
    square(stubborn, x, y, Threat(norm, 0.1), Draws(0, torch.arange(16)), queries=3 * QUERY_BLOCK - 5, restarts=2)
    assert len(drawn) == 6
    numbers = torch.cat([block.flatten(0, 1) for block in drawn])
    assert len(numbers.unique(dim=0)) == 16 * 6 * QUERY_BLOCK
    start, of_block = stubborn.asked[0], [stubborn.asked[first : first + 60] for first in (1, 1 + QUERY_BLOCK, 1 + 2 * QUERY_BLOCK)]
    one, two, three = (torch.stack(points) - start for points in of_block)
    assert not any(torch.equal(a, b) for a, b in ((one, two), (two, three), (one, three)))
    assert not torch.equal(two[:, 0], two[:, 1])


# What is taken


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("boxed", [False, True])
def test_more_queries_only_add_to_what_fewer_found(problem, norm, boxed):
    p = problem("affine", n=40, boxed=boxed)
    threat = Threat(norm, float(p.distances(norm).quantile(0.7)))
    few, many = (attack(p, threat, queries=queries) for queries in (40, 300))
    assert 0 < int(few.fooled.sum()) < int(many.fooled.sum()) < 40
    assert torch.equal(few.fooled, many.fooled & (many.step <= 40))
    assert torch.equal(few.x_adv[few.fooled], many.x_adv[few.fooled])
    assert threat.contains(p.x, many.x_adv).all()
    assert torch.equal(p.model(many.x_adv).argmax(1) != p.y, many.fooled)
    assert not (many.fooled & (p.distances(norm) > threat.eps * 1.0001)).any()


@pytest.mark.parametrize("norm", NORMS)
def test_the_step_is_the_query_and_a_fallen_sample_is_asked_no_more(problem, norm):
    p = problem("linear", n=40)
    watched = Listening(p.model)
    found = attack(p, Threat(norm, EPS[norm]), model=watched, queries=200)
    fallen = found.fooled
    assert int(fallen.sum()) > 0
    assert (found.forwards[fallen] <= found.step[fallen] + 1).all()
    assert (found.forwards[~fallen] <= 201).all()
    assert not found.backwards.any()
    assert int(found.step.max()) <= 200
    if norm != "linf":
        assert torch.equal(found.forwards[fallen], found.step[fallen] + 1)
        assert (found.forwards[~fallen] == 201).all()


def test_the_loss_can_be_another_one_and_then_leads_elsewhere(problem):
    p = problem("convolutional", n=24)
    by_margin, by_ce = (attack(p, Threat("linf", 0.04), queries=150, loss=loss) for loss in ("margin", "ce"))
    assert int(by_margin.fooled.sum()) > 0
    assert int(by_ce.fooled.sum()) > 0
    assert not torch.equal(by_margin.step, by_ce.step)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", [(1, 5, 5), (3, 14, 14), (3, 32, 30), (3, 4, 4), (2, 1, 9), (1, 2, 2)])
def test_images_of_any_shape_are_attacked(problem, norm, shape):
    p = problem("linear", n=20, shape=shape)
    threat = Threat(norm, float(p.distances(norm).quantile(0.9)) * 2)
    found = attack(p, threat, queries=60, rescale=True)
    assert threat.contains(p.x, found.x_adv).all()
    assert torch.equal(p.model(found.x_adv).argmax(1) != p.y, found.fooled)
    assert found.fooled.any()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("classes", [2, 3, 100])
def test_any_number_of_classes_will_do(problem, norm, classes):
    p = problem("linear", classes=classes, n=30)
    for loss in ("margin", "dlr"):
        found = attack(p, Threat(norm, EPS[norm]), queries=80, loss=loss)
        assert found.fooled.any()
        assert torch.equal(p.model(found.x_adv).argmax(1) != p.y, found.fooled)


# Who is asked


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("double", [False, True])
def test_nothing_depends_on_batch_size_or_order(problem, norm, double):
    p = problem("linear", n=50)
    p = in_float64(p) if double else p
    threat = Threat(norm, EPS[norm])
    whole = attack(p, threat, queries=150)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    shuffled = attack(p, threat, ids=order, queries=150)
    parts = [attack(p, threat, ids=torch.arange(i, min(i + 7, 50)), queries=150) for i in range(0, 50, 7)]
    assert int(whole.fooled.sum()) > 0
    for name in ("fooled", "step", "x_adv", "forwards"):
        assert torch.equal(getattr(whole, name)[order], getattr(shuffled, name))
        assert torch.equal(getattr(whole, name), torch.cat([getattr(part, name) for part in parts]))


def test_leaving_out_candidates_that_change_nothing_saves_passes_and_moves_no_verdict(problem, monkeypatch):
    p = problem("linear", n=40, shape=(1, 8, 8))
    skipping = attack(p, Threat("linf", 0.05), queries=400)
    monkeypatch.setattr(Search, "ask", lambda self, x_adv, new: self.test(x_adv))
    asking = attack(p, Threat("linf", 0.05), queries=400)
    stands = ~asking.fooled
    assert 0 < int(stands.sum()) < 40
    for name in ("fooled", "step", "x_adv"):
        assert torch.equal(getattr(skipping, name), getattr(asking, name))
    assert (asking.forwards[stands] == 401).all()
    assert (skipping.forwards[stands] < 390).all()


def test_rows_left_out_of_a_pass_count_a_step_and_no_forward(problem):
    p = problem("linear", n=40)
    watched = Listening(p.model)
    search = Search(watched, p.x, p.y, Threat("linf", 1.0))
    new = torch.arange(40) % 2 == 1
    logits = search.ask(p.x, new)
    assert torch.equal(logits[new], p.model(p.x[new]))
    assert [len(points) for points in watched.asked] == [20]
    assert search.ask(p.x, ~new & new).shape == (40, 0)
    assert len(watched.asked) == 1
    other = p.x[(p.y != p.y[0]).nonzero()[0]].expand_as(p.x)
    search.ask(other, new)
    found = search.result()
    assert torch.equal(found.forwards, 2 * new.long())
    assert torch.equal(found.fooled, new & (p.model(other).argmax(1) != p.y))
    assert set(found.step[found.fooled].tolist()) == {2}


def test_passengers_of_a_full_pass_are_neither_counted_nor_judged(problem):
    p = problem("linear", n=20)
    search = Search(p.model, p.x, p.y, Threat("linf", 1.0))
    new = torch.arange(20) != 3
    other = p.x[(p.y != p.y[3]).nonzero()[0]].expand_as(p.x)
    search.ask(other, new)
    found = search.result()
    assert not found.fooled[3]
    assert found.forwards.tolist() == new.long().tolist()


def test_a_margin_of_exactly_zero_with_the_right_label_does_not_end_the_search():
    x = torch.rand((20, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    for norm in NORMS:
        tied = Listening(Constant(1.0, 1.0, 0.0))
        found = square(tied, x, torch.zeros(20, dtype=torch.long), Threat(norm, EPS[norm]), Draws(0, torch.arange(20)), queries=300)
        assert not found.fooled.any()
        assert (found.forwards > 200).all()


def test_rounded_logits_fall_though_they_are_tied_on_the_way(problem):
    p = problem("linear", n=40, classes=2)
    coarse = type(p.model)(p.model.w.detach(), p.model.b.detach())
    coarse.forward = lambda x: (p.model(x) / 4).round()
    tied = (margin(coarse(p.x), p.y) == 0) & (p.y == 0)  # argmax of a tie is 0: the label is still right
    found = attack(p, Threat("linf", 0.2), model=coarse, queries=300)
    assert int(tied.sum()) == 5
    assert int((found.fooled & tied & (found.step > 0)).sum()) == 4


def test_without_room_nothing_is_asked_twice_in_linf(problem):
    p = problem("linear", n=20)
    found = attack(p, Threat("linf", 0.0), queries=50)
    assert not found.fooled.any()
    assert (found.forwards == 1).all()


def test_a_claim_that_the_true_model_refutes_does_not_end_the_search(problem):
    p = problem("linear", n=24, classes=2)
    hasty = type(p.model)(p.model.w.detach(), p.model.b.detach())
    sure = margin(p.model(p.x), p.y).neg().min() / 2
    hasty.forward = lambda x: p.model(x) - sure * nn.functional.one_hot(p.model(x).argmax(1), 2)
    hasty.exact = p.model
    threat = Threat("linf", EPS["linf"])
    true = attack(p, threat, queries=200)
    through = attack(p, threat, model=hasty, queries=200)
    assert torch.equal(p.model(through.x_adv).argmax(1) != p.y, through.fooled)
    assert int(through.fooled.sum()) >= int(true.fooled.sum()) - 1 > 5


def test_a_tie_of_a_coarse_stand_in_does_not_end_the_search(problem):
    p = problem("linear", n=24, classes=2)
    coarse = type(p.model)(p.model.w.detach(), p.model.b.detach())
    coarse.forward = lambda x: p.model(x).round()
    coarse.exact = p.model
    threat = Threat("linf", EPS["linf"])
    start = margin(p.model(p.x).round(), p.y)
    found = attack(p, threat, model=coarse, queries=300)
    assert (found.fooled & (start < 0)).any()


def test_nan_logits_never_count_as_success_and_do_not_stop_the_search(problem):
    p = problem("linear", n=24)

    class Sometimes(nn.Module):
        def forward(self, x):
            logits = p.model(x)
            return torch.where((x[:, 0, 0, :1] > p.x.flatten().median()), logits * float("nan"), logits)

    found = attack(p, Threat("linf", 0.1), model=Sometimes(), queries=150)
    assert found.nonfinite.any()
    assert found.fooled.any()
    assert Sometimes()(found.x_adv[found.fooled]).isfinite().all()


def test_later_restarts_draw_other_windows_and_run_on_those_that_stand(problem):
    p = problem("linear", n=60)
    threat = Threat("linf", EPS["linf"])
    once, thrice = attack(p, threat, queries=40), attack(p, threat, queries=40, restarts=3)
    assert torch.equal(once.x_adv[once.fooled], thrice.x_adv[once.fooled])
    later = thrice.fooled & ~once.fooled
    assert later.any()
    assert (thrice.step[later] >= 41).all()
    assert (thrice.step[~thrice.fooled] == -1).all()


def test_the_global_random_state_is_neither_read_nor_moved(problem):
    p = problem("linear", n=20)
    torch.manual_seed(1)
    before, first = torch.get_rng_state(), attack(p, Threat("l2", 0.4), queries=30)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert torch.equal(first.x_adv, attack(p, Threat("l2", 0.4), queries=30).x_adv)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"queries": 0}, "queries must be a whole number"),
        ({"restarts": 1.5}, "restarts must be a whole number"),
        ({"p_init": 1.2}, "p_init is a share"),
        ({"p_init": 0}, "p_init must be a finite number above 0"),
        ({"rescale": "yes"}, "rescale must be true or false"),
        ({"loss": "margins"}, "unknown loss"),
    ],
)
def test_a_wrong_option_gets_a_sentence(problem, options, words):
    p = problem("linear", n=4)
    with pytest.raises(InputError, match=words):
        attack(p, Threat("linf", 0.1), **options)


# The authors' code


class Logged(SquareAttack):
    """The authors' Square; notes the random numbers it uses."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.signs, self.coins, self.places = [], [], []

    def random_choice(self, shape):
        self.signs.append(super().random_choice(shape))
        return self.signs[-1]

    def random_int(self, low=0, high=1, shape=(1,)):
        self.places.append((int(super().random_int(low, high, list(shape))), high))
        return torch.tensor([self.places[-1][0]])

    def eta(self, s):
        pattern = super().eta(s)
        self.coins.append(int(pattern[0, -1] < 0))
        return pattern


class Replay(Draws):
    """Hands out the numbers that `Logged` noted: as the authors draw them, one window for all samples."""

    def take(self, keep):
        return self

    def child(self, *names):
        return self

    def signs(self, shape, step=0):
        if len(shape) == 3 and shape[1] == 1:  # stripes
            return self.log.signs[0]
        start = self.log.signs[: shape[1] * shape[2]]
        return torch.cat([sign.flatten(2) for sign in start], 2).view(len(self.ids), *shape)

    def integers(self, high, shape=(), step=0):
        return torch.tensor(self.log.coins[: shape[0] * shape[1]]).view(1, *shape).expand(len(self.ids), -1, -1)

    def uniform(self, shape, step=0):
        n, queries, width = len(self.ids), self.queries, shape[1]
        at = torch.tensor([(place + 0.5) / max(high, 1) for place, high in self.log.places]).view(queries, -1)
        signs = torch.stack(
            [sign.flatten(1) if sign.dim() == 4 else sign.view(1, -1).expand(n, -1) for sign in self.log.signs[-queries:]], 1
        )
        coins = torch.tensor(self.log.coins[-queries:]).float()[:, None] if self.log.coins else torch.zeros(queries, 0)
        numbers = torch.cat((torch.cat((at, coins), 1).expand(n, -1, -1), signs * 0.25 + 0.5), 2)
        assert numbers.shape[2] == width
        return torch.nn.functional.pad(numbers, (0, 0, 0, shape[0] - queries))


@pytest.mark.parametrize(("norm", "eps", "queries"), [("linf", 0.004, 120), ("l2", 0.1, 120), ("l1", 0.5, 10)])
@pytest.mark.parametrize("shape", [(3, 10, 10), (1, 15, 15)])
def test_the_authors_code_walks_the_same_way_with_the_same_random_numbers(problem, norm, eps, queries, shape):
    p = problem("dense", n=16, shape=shape)
    p.model[1].weight.data *= 0.3
    p = type(p)(p.model, p.x, p.model(p.x).argmax(1))
    keep = margin(p.model(p.x), p.y).detach().argsort()[:12]  # the surest, so that none falls
    x, y = p.x[keep], p.y[keep]
    name = {"linf": "Linf", "l2": "L2", "l1": "L1"}[norm]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = Logged(lambda v: p.model(v).detach().clone(), norm=name, eps=eps, n_queries=queries, resc_schedule=False, device="cpu")
        theirs.init_hyperparam(x)
        asked, x_best = theirs.attack_single_run(x, y)
    assert (asked == queries + 1).all(), "none may fall"
    replay = Replay(0, torch.arange(12))
    object.__setattr__(replay, "log", theirs)
    object.__setattr__(replay, "queries", queries)
    watched = Listening(p.model)
    found = square(watched, x, y, Threat(norm, eps), replay, queries=queries)
    assert not found.fooled.any()
    best, ours = torch.full((12,), -torch.inf), x
    points = [(call, margin(p.model(call[:12]), y)) for call in watched.asked if len(call) == 16]
    for call, losses in points:
        ours = torch.where((losses > best)[:, None, None, None], call[:12], ours)
        best = torch.maximum(losses, best)
    assert torch.equal(margin(p.model(x_best), y) > margin(p.model(x), y), torch.ones(12, dtype=torch.bool))
    assert (ours - x_best).abs().max() < (2e-5 if norm == "l1" else 1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_share_fooled_is_that_of_the_authors_code(problem, norm):
    p = problem("dense", n=60, shape=(3, 8, 8))
    eps, queries, seeds = {"linf": 0.03, "l2": 0.35}[norm], 100, range(6)
    ours = [square(p.model, p.x, p.y, Threat(norm, eps), p.draws(seed), queries=queries).fooled.float().mean() for seed in seeds]
    settings = {"norm": norm.capitalize(), "eps": eps, "n_queries": queries, "resc_schedule": False, "device": "cpu"}
    theirs = []
    for seed in seeds:
        with torch.random.fork_rng(devices=[]):
            points = SquareAttack(lambda v: p.model(v).detach().clone(), seed=seed, **settings).perturb(p.x, p.y)
        theirs.append((p.model(points).argmax(1) != p.y).float().mean())
    ours, theirs = torch.stack(ours).mean(), torch.stack(theirs).mean()
    assert 0.2 < theirs < 0.8
    assert abs(ours - theirs) < 0.05


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_samples_without_hope_are_given_up_and_the_others_fall_as_without_the_rule(problem, norm):
    p = problem("linear", n=24, classes=4, shape=(1, 6, 6))
    threat = Threat(norm, float(p.distances(norm).median()))
    plain = square(p.model, p.x, p.y, threat, p.draws(), queries=1100)
    sober = square(p.model, p.x, p.y, threat, p.draws(), queries=1100, hope=2.0)
    assert (sober.fooled <= plain.fooled).all()
    assert int(sober.fooled.sum()) >= 0.8 * int(plain.fooled.sum()) > 0
    stands = ~sober.fooled & ~plain.fooled
    assert (sober.forwards[stands] <= plain.forwards[stands]).all()
    assert (sober.forwards[stands] < 600).any()
    with pytest.raises(InputError, match="hope"):
        square(p.model, p.x, p.y, threat, p.draws(), hope=-1)


def test_who_is_given_up_does_not_depend_on_the_batch(problem):
    p = problem("linear", n=20, classes=4, shape=(1, 6, 6))
    threat = Threat("linf", float(p.distances("linf").median()))
    whole = square(p.model, p.x, p.y, threat, p.draws(), queries=600, hope=2.0)
    for part in torch.arange(20).flip(0).split(3):
        few = square(p.model, p.x[part], p.y[part], threat, p.draws().take(part), queries=600, hope=2.0)
        for name in ("fooled", "step", "forwards"):
            assert torch.equal(getattr(few, name), getattr(whole, name)[part]), name

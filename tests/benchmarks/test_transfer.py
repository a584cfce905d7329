"""The benchmark of transfer itself, on a library of a few numbers: what arms see and gain, and what must be nothing."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.benchmarks import files, transfer
from tests.benchmarks import transfer_arms as arms
from tests.benchmarks import transfer_domains as domains
from tests.benchmarks import transfer_episodes as episodes
from tests.benchmarks import transfer_placebos as nothing
from tests.benchmarks import transfer_shipped as shipped
from tests.benchmarks import transfer_table as table
from tests.benchmarks import transfer_tuning as tuning
from tests.benchmarks.transfer_arms import SHIPPED, TUNED
from tests.benchmarks.transfer_domains import ANCESTOR, SCALES, Domain, Entry, Pictures
from tests.benchmarks.transfer_episodes import FIRST, HEADS, MIXED, NONE, Kind, Measured
from workbench.core.context import Context
from workbench.core.errors import WorkbenchError
from workbench.core.values import EntryId, Preprocess
from workbench.learn import functional
from workbench.learn.calibrate import fit_temperature
from workbench.learn.influence import Centroids
from workbench.learn.protocol import Setting, Support, generator
from workbench.learn.registry import create
from workbench.services import survey
from workbench.transfer import mixing, prior, rank, recipes
from workbench.transfer.mixing import Trunk

NAMES = ("drawn", "rough", "woven", "worn")
SHOTS, APART = 5, 20


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def fake(target, *, useful=0.12, seed=0, shots=SHOTS, count=60, honest=True):
    """A domain on which one foreign entry (the next of the list) does better than all others, by ``useful``.

    The left-out losses and the similarities say so, if they are ``honest``; else they are noise.
    """
    gen = np.random.default_rng([seed, NAMES.index(target), shots])
    names = (ANCESTOR, *NAMES)
    kinds = tuple(Kind(n, layer, head) for n in names for layer in HEADS for head in HEADS[layer])
    kinds += (Kind(NONE, "last", "own"), Kind(MIXED, "last", "own"))
    friend = NAMES[(NAMES.index(target) + 1) % len(NAMES)]
    better = {n: useful * (n == friend) + 0.2 * (n == target) for n in names} | {NONE: -0.2, MIXED: 0.0}
    true = np.array([0.55 + better[k.entry] + 0.02 * (k[1:] == FIRST) for k in kinds])
    correct = gen.random((count, len(kinds), 75)) < true[None, :, None]
    left = 0 if shots == 1 else 5 * shots
    hint = true if honest else np.full(len(kinds), 0.55)
    losses = (1.5 - 2 * hint)[None, :, None] + 0.3 * gen.standard_normal((count, len(kinds), left))
    likeness = np.array([0.3 + 2 * better[n] * honest for n in names]) + 0.03 * gen.standard_normal((count, len(names)))
    right = np.stack([correct[:, kinds.index(Kind(n, *FIRST))] for n in names], 1)
    truth = np.repeat(np.arange(5), 15)
    guess = np.where(right, truth, (truth + 1) % 5)
    probabilities = 0.8 * np.eye(5)[guess] + 0.04
    logme = likeness if shots >= 3 else likeness[:, :0]
    scrambled = gen.binomial(75, 0.2, (10, len(names))) / 75
    standings = np.array([[30.0 if n == ANCESTOR else 1.0, 100, 0.9] for n in names])
    return Measured(kinds, names, correct, losses, likeness, logme, probabilities, standings, scrambled, 0.01)


def library(**kwargs):
    return {n: fake(n, **kwargs) for n in NAMES}


# ---- what an arm may see ---------------------------------------------------------------------------------------------


def test_the_target_brings_no_entry_of_its_own():
    w = arms.world("rough", library(), APART)
    assert "rough" not in {w.measured.kinds[i].entry for i in w.kinds}
    assert "rough" not in {w.measured.names[i] for i in w.names}
    assert len(w.kinds) == 4 * 6
    found = arms.arms(w, arms.Settings(), SHOTS)
    for name in set(found) - {"uniform", "top-k"}:  # votes are better than any of their voters
        assert found[name].mean() < 0.72, name  # the target's own entry would have 0.75 and more


def test_the_default_is_chosen_where_others_are_targets():
    everything = library()
    before = arms.world("drawn", everything, APART).default
    changed = dict(everything)
    # whatever happens on the target itself does not matter to its default
    turned = dataclasses.replace(everything["drawn"], correct=~everything["drawn"].correct)
    changed["drawn"] = turned
    assert arms.world("drawn", changed, APART).default == before
    # nor what happens on an entry's own domain: its own would make every entry look best
    good = dict(everything)
    m = everything["worn"]
    own = np.array([k.entry == "worn" for k in m.kinds])
    good["worn"] = dataclasses.replace(m, correct=m.correct | own[None, :, None])
    assert arms.world("drawn", good, APART).default == before


def eased(ease, merit=None):
    """Domains on which every recipe has the accuracy that the domain and its entry have, to the last query."""
    found = {}
    for d, m in library().items():
        right = [100 * (ease[d] + (merit or {}).get(k.entry, 0.0)) for k in m.kinds]
        row = np.arange(100)[None, :] < np.array(right).round()[:, None]
        found[d] = dataclasses.replace(m, correct=np.repeat(row[None], len(m.correct), 0))
    return found


@pytest.mark.parametrize("hardest", NAMES)
def test_the_default_is_not_chosen_by_the_ease_of_domains(hardest):
    ease = {d: 0.3 if d == hardest else 0.8 for d in NAMES}
    for target in NAMES:
        alike = arms.world(target, eased(ease), APART)
        assert alike.measured.kinds[alike.default].entry == ANCESTOR  # the first of equal ones
        for best in (ANCESTOR, *(n for n in NAMES if n != target)):
            w = arms.world(target, eased(ease, {best: 0.02}), APART)
            assert w.measured.kinds[w.default].entry == best


def test_settings_do_not_depend_on_the_target():
    everything = library()
    before = arms.tuned("rough", everything, APART, SHOTS)
    m = everything["rough"]
    noise = np.random.default_rng(5)
    changed = everything | {
        "rough": dataclasses.replace(
            m, correct=~m.correct, losses=noise.permuted(m.losses, axis=1), likeness=-m.likeness
        )
    }
    assert arms.tuned("rough", changed, APART, SHOTS) == before


def test_episodes_for_choosing_are_not_counted():
    w = arms.world("rough", library(), APART)
    assert len(arms.default(w)) == 60 - APART
    m = w.measured
    spoilt = m.correct.copy()
    spoilt[APART:] = False
    assert arms.oracle(dataclasses.replace(w, measured=dataclasses.replace(m, correct=spoilt))).sum() == 0


# ---- what arms gain --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shots", [1, SHOTS])
def test_where_one_entry_is_better_choosing_finds_it(shots):
    rows = table.figures(library(shots=shots), APART, shots)["arms"]
    assert rows["oracle"]["gain"] > 0.08
    for name in ("most similar", TUNED):
        assert rows[name]["low"] > 0
        assert rows[name]["share"] > 0.7
    if shots > 1:
        assert rows["leave-one-out"]["share"] > 0.7
        assert rows["LogME"]["gain"] > 0
    else:
        assert rows["leave-one-out"]["gain"] == 0
        assert "LogME" not in rows
    assert rows["default"]["gain"] == rows["default"]["low"] == rows["default"]["negative"] == 0


def test_where_nothing_is_better_choosing_loses_nothing():
    rows = table.figures(library(useful=0.0, honest=False), APART, SHOTS)["arms"]
    assert abs(rows[SHIPPED]["gain"] - rows[table.START]["gain"]) < 0.02
    assert abs(rows[TUNED]["gain"]) < 0.02
    for name in (SHIPPED, TUNED):
        assert rows[name]["negative"] < 0.08
    assert "share" not in rows[TUNED] or rows["oracle"]["low"] > 0


@pytest.mark.parametrize("shots", [1, SHOTS])
def test_placebos_give_nothing(shots):
    found = table.figures(library(shots=shots), APART, shots)
    got = found["placebos"]
    for name in ("copies, as shipped", "copies, tuned", "same domain, as shipped", "same domain, tuned"):
        assert abs(got[name]["gain"]) < 0.02, name
    for name in ("shuffled, as shipped", "shuffled, tuned"):
        # one of three foreign entries is better by 0.12: so much is gained blindly, and what is known gains far more
        assert got[name]["gain"] < 0.05, name
    against = got["most similar of shuffled, against random"]
    assert against["low"] < 0.01
    assert against["high"] > -0.01
    assert found["scrambled"]["accuracy"] == pytest.approx(found["scrambled"]["chance"], abs=0.03)


def test_a_placebo_of_copies_can_fail():
    """Without a gate copies are left for one another, in vain; who knew their queries would gain."""
    w = arms.world("rough", library(count=300), APART)
    copies = nothing.of_copies(w, w.default)
    free = arms.combined(copies, arms.Settings(gate=-99.0, margin=0.0), SHOTS)
    base = arms.default(copies)
    assert (free != base).any(1).mean() > 0.8
    assert abs(free.mean() - base.mean()) < 0.03
    assert 0 < arms.negative(free, base) < 0.15
    m = copies.measured
    knowing = dataclasses.replace(m, losses=-np.repeat(m.accuracy[:, :, None], 25, 2) + 1e-3 * m.losses)
    told = arms.combined(dataclasses.replace(copies, measured=knowing), arms.Settings(), SHOTS)
    assert told.mean() - base.mean() > 0.05


def test_nothing_is_left_of_losses_that_are_dealt_out():
    """Losses that say which recipe is best must not be of use any more."""
    everything = library()
    dealt = nothing.shuffled(everything)
    told, untold = arms.world("rough", everything, APART), arms.world("rough", dealt, APART)
    assert arms.spearman(told) > 0.2
    assert abs(arms.spearman(untold)) < 0.1
    for d, m in everything.items():
        kept = m.losses[:, :-1].mean(2)  # all but the mixture's
        assert np.allclose(np.sort(kept, 1), np.sort(dealt[d].losses.mean(2), 1))


def test_a_choice_by_the_queries_would_be_noticed():
    """Placebos are there to find this: losses that know the answers gain where there is nothing to gain."""
    everything = {
        d: dataclasses.replace(m, losses=-np.repeat(m.accuracy[:, :, None], 25, 2) + 1e-3 * m.losses)
        for d, m in library(useful=0.0, honest=False).items()
    }
    assert table.figures(everything, APART, SHOTS)["arms"][TUNED]["low"] > 0.03


def test_the_gate_and_the_margin_keep_the_default():
    w = arms.world("rough", library(), APART)
    base = arms.default(w)
    assert np.array_equal(arms.combined(w, arms.Settings(gate=math.inf, margin=9.0), SHOTS), base)
    assert not np.array_equal(arms.combined(w, arms.Settings(gate=0.5), SHOTS), base)
    one = arms.world("rough", library(shots=1), APART)
    assert np.array_equal(arms.combined(one, arms.Settings(margin=9.0), 1), arms.default(one))


def test_as_shipped_starts_from_the_broadest_entry_and_tries_what_the_product_tries():
    w = arms.world("rough", library(), APART)
    assert w.measured.kinds[w.start] == Kind(ANCESTOR, "last", "own")
    tried = [w.measured.kinds[i] for i in shipped.candidates(w, 0, SHOTS)]
    assert tried[-2:] == [Kind(MIXED, "last", "own"), Kind(NONE, "last", "own")]
    assert "rough" not in {k.entry for k in tried}
    assert len(set(tried)) == len(tried) <= recipes.MOST + 2
    one = [w.measured.kinds[i] for i in shipped.candidates(w, 0, 1)]
    assert [k.head for k in one] == ["own"] * 5
    assert shipped.SHORT_LIST == survey._SHORT_LIST


@pytest.mark.parametrize("size", [28, 64])
def test_nothing_that_ships_is_unmeasured_at_full_scale(size):
    full = SCALES["full"]
    entries = [EntryId(str(n)) for n in range(len(full.domains[size]) + len(full.beside[size]))][: shipped.SHORT_LIST]
    menu = recipes.menu(entries)
    assert all(r.adapter == "none" and r.head in HEADS[r.layer] for r in menu)


@pytest.mark.parametrize("shots", [1, SHOTS])
def test_as_shipped_is_not_told_anything(shots):
    """Neither by other targets nor by the queries."""
    everything = library(shots=shots)
    before = shipped.chosen(arms.world("rough", everything, APART), shots)
    turned = {d: dataclasses.replace(m, correct=~m.correct) for d, m in everything.items()}
    assert np.array_equal(shipped.chosen(arms.world("rough", turned, APART), shots), before)


def test_as_shipped_finds_an_entry_that_is_better():
    w = arms.world("rough", library(), APART)
    gain = shipped.combined(w, SHOTS).mean() - shipped.default(w).mean()
    assert gain > 0.08


def test_as_shipped_transfers_nothing_that_resembles_nothing():
    w = arms.world("rough", library(shots=1), APART)
    m = dataclasses.replace(w.measured, likeness=np.full_like(w.measured.likeness, 0.01))
    taken = shipped.chosen(dataclasses.replace(w, measured=m), 1)
    assert {w.measured.kinds[i].entry for i in taken} == {NONE}


def test_tuned_has_the_scores_of_the_workbench():
    w = arms.world("rough", library(useful=0.03), APART)
    m = w.measured
    got = arms.chosen(w, arms.Settings(gate=-99.0, margin=prior.SENIORITY), SHOTS)
    at = int(np.flatnonzero(w.kinds == w.default)[0])
    best = set()
    for e in range(40):
        options = [
            rank.Option(
                EntryId(m.kinds[i].entry),
                m.kinds[i].entry,
                (("", float(m.likeness[APART + e, w.entry_of(i)])),),
                tuple(m.losses[APART + e, i].tolist()),
            )
            for i in w.kinds
        ]
        scores = rank.choose(options, SHOTS, default=at).scores
        assert got[e] == w.kinds[int(np.argmax(scores))]
        best.add(got[e])
    assert len(best) > 2  # otherwise nothing was decided


def test_the_gate_is_passed_by_more_than_so_many_standard_errors():
    w = arms.world("rough", library(useful=0.03), APART)
    best = arms.chosen(w, arms.Settings(gate=-99.0, margin=9.0), SHOTS)
    losses = w.measured.losses[APART:]
    for gate in (0.5, 1.0, 2.0):
        got = arms.chosen(w, arms.Settings(gate=gate, margin=9.0), SHOTS)
        for e in range(40):
            gain, error = rank.paired_gain(losses[e, w.default].tolist(), losses[e, best[e]].tolist())
            assert got[e] == (best[e] if gain > gate * error else w.default)


def test_top_k_of_one_at_no_temperature_is_the_most_similar_entry_and_never_a_dissimilar_one():
    w = arms.world("rough", library(), APART)
    w = dataclasses.replace(w, default=w.first(int(w.names[0])))
    cold = arms.top(w, arms.Settings(k=1, temperature=1e-6))
    assert np.array_equal(cold, arms.most_similar(w))
    m = dataclasses.replace(w.measured, likeness=np.full_like(w.measured.likeness, 0.01))
    nothing = arms.top(dataclasses.replace(w, measured=m), arms.Settings())
    ancestor = w.first(w.measured.names.index(ANCESTOR))
    assert np.array_equal(nothing, w.correct[:, ancestor])


# ---- figures ---------------------------------------------------------------------------------------------------------


def test_the_interval_holds_the_spread_of_domains_and_of_episodes():
    gen = np.random.default_rng(0)
    alike = [0.05 + 0.1 * gen.standard_normal(200) for _ in range(8)]
    mean, low, high = arms.bootstrapped(alike)
    assert mean == pytest.approx(np.mean([g.mean() for g in alike]))
    assert high - low == pytest.approx(2 * 1.96 * 0.1 / np.sqrt(1600), rel=0.5)
    apart = [g + d for g, d in zip(alike, np.linspace(-0.2, 0.2, 8), strict=True)]
    _, low, high = arms.bootstrapped(apart)
    assert high - low == pytest.approx(2 * 1.96 * np.std(np.linspace(-0.2, 0.2, 8)) / np.sqrt(8), rel=0.25)
    assert arms.bootstrapped([np.zeros(5)] * 3) == (0, 0, 0)


def test_negative_transfer_is_beyond_two_errors():
    base = np.ones((3, 100), bool)
    arm = base.copy()
    arm[0, :1] = False  # one query of a hundred: one error
    arm[1, :30] = False
    assert arms.negative(arm, base) == pytest.approx(1 / 3)
    assert arms.negative(base, base) == 0


def test_rank_correlation_is_one_for_losses_that_order_recipes_as_they_do():
    w = arms.world("rough", library(), APART)
    known = -np.repeat(w.measured.accuracy[:, :, None], 25, 2)
    assert arms.spearman(dataclasses.replace(w, measured=dataclasses.replace(w.measured, losses=known))) == (
        pytest.approx(1.0)
    )
    assert arms.spearman(arms.world("rough", library(shots=1), APART)) is None


# ---- episodes and answers --------------------------------------------------------------------------------------------


def test_an_episode_asks_about_what_it_does_not_show():
    members = [np.arange(20 * c, 20 * c + 20) for c in range(7)] + [np.arange(200, 209)]
    rows = episodes.drawn(members, 5, 8, seed=3)
    assert rows.shape == (8, 5 * 20)
    for row in rows:
        examples, queries = row[:25].reshape(5, 5), row[25:].reshape(5, 15)
        assert not set(examples.ravel()) & set(queries.ravel())
        assert len(set(examples.ravel())) == 25
        assert np.array_equal(examples[:, 0] // 20, queries[:, 0] // 20)
        assert 10 not in set(row // 20)  # a class of nine pictures cannot show five and ask about five
    assert np.array_equal(rows, episodes.drawn(members, 5, 8, seed=3))
    assert not np.array_equal(rows, episodes.drawn(members, 5, 8, seed=4))


@pytest.mark.parametrize(("shots", "queries"), [(1, 13), (5, 9)])
def test_no_picture_is_asked_about_twice(shots, queries):
    """A repeated query says nothing new, and would make the errors of a pair look smaller."""
    members = [np.arange(20 * c, 20 * c + 14 + c) for c in range(6)]
    assert episodes.asked_of(members, shots) == queries
    for row in episodes.drawn(members, shots, 8, seed=1):
        assert len(row) == len(set(row)) == 5 * (shots + queries)


@pytest.mark.parametrize("head", HEADS["last"])
def test_answers_are_those_of_the_algorithm(head):
    support, query = normal(2, 15, 64, seed=1).float(), normal(2, 75, 64, seed=2).float()
    y = episodes.labels(3)
    own = head == "own"
    algorithm = create("protonet" if own else head, {"scale": "one"} if own else {}, Setting("conv4", 1, 28))
    state = algorithm.init(generator(0))
    got = episodes.answers(head, support, query, 3)
    for e in range(2):
        adapted = algorithm.adapt(state, Support(support[e], y, 5, support[e]), Context())
        expected = algorithm.head(state, adapted)(query[e]).double()
        gap = got[e] - expected
        assert float((gap - gap.mean(1, keepdim=True)).abs().max()) < 1e-3


@pytest.mark.parametrize("head", HEADS["last"])
def test_left_out_answers_are_those_of_the_product(head):
    support = normal(3, 15, 6, seed=1)
    y = episodes.labels(3)
    got = episodes.left_out(head, support, 3)
    losses = episodes.losses_of(got, y)
    for e in range(3):
        if head == "own":
            expected = Centroids(support[e], 1.0).left_out(y, 5)
            assert torch.allclose(got[e].softmax(1), expected.softmax(1), atol=1e-8)
            continue
        found = recipes.left_out(support[e], y, 5, head)
        assert torch.allclose(got[e], found.logits[0], atol=1e-8)
        assert torch.allclose(losses[e], recipes.judged(found, y).losses, atol=1e-6)
        assert float(episodes.temperatures(got, y)[e]) == pytest.approx(fit_temperature(got[e], y))


def test_the_mixture_of_an_episode_is_that_of_the_services_and_not_of_the_targets_own_entry(monkeypatch):
    monkeypatch.setattr(episodes, "similarity", lambda *_: 0.5)
    first = entry(ANCESTOR)
    shelf = {ANCESTOR: first} | {n: entry(n, first.trunk.digest, 1 + i) for i, n in enumerate(NAMES[:3])}
    x = torch.randn(5 * (2 + 6), 3, 28, 28, generator=generator(5))
    alike = {ANCESTOR: 0.9, "drawn": 0.5, "rough": 0.45, "woven": 0.05}
    right, losses = episodes._of_mixture(shelf, alike, x, 28, 2)
    family = mixing.Family(first.trunk, tuple(shelf[n].trunk for n in NAMES[:3]))
    weights = mixing.weights({n: alike[n] for n in NAMES[:3]})
    assert set(weights) == {mixing.NULL, "drawn", "rough"}  # the third is no more similar than the ancestor counts
    trunk = mixing.restated(domains.network(28), mixing.mixed(family, weights).trunk, x[:10])
    f = domains.features(trunk, 28, "last", x)
    assert np.array_equal(
        right, (episodes.answers("own", f[None, :10], f[None, 10:], 2)[0].argmax(1) == episodes.labels(6)).numpy()
    )
    assert losses.shape == (10,)
    pixels = np.random.default_rng(0).integers(0, 256, (48, 28, 28, 3)).astype(np.uint8)
    pictures = Pictures(pixels, tuple(np.arange(8 * c, 8 * c + 8) for c in range(6)))
    seen = {n: episodes.described(pictures, first, 28) for n in shelf}
    rows = episodes.drawn(pictures.members, 2, 3, 0)
    changed = shelf | {"rough": entry("rough", first.trunk.digest, 9)}
    a, b, c = (
        episodes.measure(pictures, s, seen, 28, rows, 2, 1, 1, target)
        for s, target in ((shelf, "rough"), (changed, "rough"), (changed, "drawn"))
    )
    assert a.kinds[-1].entry == MIXED
    assert np.array_equal(a.losses[:, -1], b.losses[:, -1])
    assert not np.array_equal(b.losses[:, -1], c.losses[:, -1])


def test_what_is_measured_survives_a_file():
    m = fake("rough")
    again = episodes.from_bytes(episodes.to_bytes(m))
    for field in dataclasses.fields(Measured):
        a, b = getattr(m, field.name), getattr(again, field.name)
        assert np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b, field.name


# ---- everything together, on a network that was not trained ----------------------------------------------------------


def entry(name, ancestor="", seed=0):
    parameters, buffers = functional.initial(domains.network(28), generator(seed))
    half = (0.5,) * 3
    return Entry(name, Trunk(name, parameters, buffers, ancestor), Preprocess(28, "rgb", mean=half, std=half))


def test_all_arms_run_on_real_networks_and_the_results_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "RESULTS", tmp_path / "results")
    first = entry(ANCESTOR)
    shelf = {ANCESTOR: first} | {n: entry(n, first.trunk.digest, 1 + i) for i, n in enumerate(NAMES[:3])}
    gen = np.random.default_rng(0)
    pictures = {
        n: Pictures(
            (gen.integers(0, 256, (48, 28, 28, 3)) // (1 + np.repeat(np.arange(6), 8) % 3)[:, None, None, None]).astype(
                np.uint8
            ),
            tuple(np.arange(8 * c, 8 * c + 8) for c in range(6)),
        )
        for n in (ANCESTOR, *NAMES[:3])
    }
    scale = dataclasses.replace(
        SCALES["short"], domains={28: NAMES[:3]}, beside={28: ()}, shots=(1, 2), episodes=4, apart=3, tuned=1
    )
    scale = dataclasses.replace(scale, tuned_at={28: (2,)})
    monkeypatch.setattr(domains, "entries", lambda *_: shelf)
    monkeypatch.setattr(domains, "put_out", lambda d, *_: tmp_path / d.name)
    monkeypatch.setattr(domains, "read", lambda folder, _: pictures[folder.name])
    monkeypatch.setattr(domains, "provenance", lambda _: {"drawn-28": {"episodes": 3}})
    monkeypatch.setattr(tuning, "STEPS", (0, 1))
    monkeypatch.setattr(transfer, "DOMAINS", [Domain(n, "drawings", "") for n in NAMES[:3]])
    trained = []
    monkeypatch.setattr(domains, "train", lambda name, *_: trained.append(name))
    transfer.run(scale, tmp_path, tmp_path, 1)
    assert trained == [ANCESTOR, *NAMES[:3]]
    found = transfer.cells(scale, tmp_path, keep=True)
    assert [(shots, what) for _, shots, what, _ in found] == [(1, "head"), (2, "head"), (2, "all")]
    assert next(iter(found[1][3]["arms"])) == SHIPPED
    assert set(found[1][3]["arms"]) == set(arms.ARMS) - {"LogME"} | {table.START}
    assert set(found[2][3]["arms"]) == set(scale.starts[28])
    # what is done is not done again
    with monkeypatch.context() as m:
        m.setattr(episodes, "measure", None)
        m.setattr(transfer, "tune", None)
        transfer.run(scale, tmp_path, tmp_path, 1)
        # but of networks trained anew nothing is known
        m.setitem(shelf, NAMES[0], entry(NAMES[0], first.trunk.digest, 77))
        with pytest.raises(WorkbenchError, match="cannot be read"):
            transfer.measured(scale, tmp_path, 28, 1)
        with pytest.raises(TypeError):  # it is measured again
            transfer.run(scale, tmp_path, tmp_path, 1)
    # results are read back into a table
    assert len(files.all_of(transfer.BENCHMARK)) == 3
    text = "\n".join(table.lines(transfer.kept()))
    assert text.count(f"| {SHIPPED} |") == text.count(f"| {TUNED} |") == 2


def test_no_other_knowledge_than_the_benchmarks_own_is_used(tmp_path, monkeypatch):
    lies = SimpleNamespace(find=lambda name: (SimpleNamespace(name=name), tmp_path / "resources" / name))
    monkeypatch.setattr(domains, "Library", lambda _: lies)
    with pytest.raises(SystemExit, match="not in the benchmark's project"):
        domains.entries(SCALES["short"], 28, tmp_path / "project")


def test_domains_are_copied_once_with_their_classes(tmp_path):
    samples = tmp_path / "samples"
    for name in ("surfaces/crack", "surfaces/weave", "surfaces/dent"):
        (samples / name).mkdir(parents=True)
        (samples / name / "1.jpg").write_bytes(b"picture")
    d = Domain("cracked", "surfaces", "samples/surfaces", classes=("crack", "dent"))
    folder = domains.put_out(d, tmp_path, samples, tmp_path / "out")
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.jpg")) == ["crack/1.jpg", "dent/1.jpg"]
    (samples / "surfaces/crack/2.jpg").write_bytes(b"another")
    assert domains.put_out(d, tmp_path, samples, tmp_path / "out") == folder
    assert not (folder / "crack/2.jpg").exists()
    nothing = Domain("none", "surfaces", "samples/surfaces", classes=("x",))
    with pytest.raises(FileNotFoundError, match="no pictures"):
        domains.put_out(nothing, tmp_path, samples, tmp_path / "out")


def test_what_was_cut_short_is_taken_up_and_what_is_done_is_left_alone(tmp_path, monkeypatch):
    asked, folder = [], tmp_path / "entry"
    folder.mkdir()
    run = SimpleNamespace(id="0007", name="kannada-28", state="interrupted")
    done = SimpleNamespace(id="e", name="kannada-28", provenance={"stopped": False})
    shelf = SimpleNamespace(entries=lambda: [done], path_of=lambda _: folder)
    monkeypatch.setattr(domains, "Library", lambda _: shelf)
    monkeypatch.setattr(domains, "list_runs", lambda _: [SimpleNamespace(**{**vars(run), "state": "done"}), run])
    monkeypatch.setattr(domains, "workbench", lambda command: asked.append(command) or 0)

    def train(name):
        domains.train(name, 28, SCALES["full"], tmp_path, tmp_path, tmp_path)

    train("kannada")
    assert asked == []
    done.provenance["stopped"] = True
    train("kannada")
    assert asked[0][:2] == ["resume", "0007"]
    assert not folder.exists()
    train("ulog")
    assert asked[1][0] == "train"
    monkeypatch.setattr(domains, "workbench", lambda _: 2)
    with pytest.raises(SystemExit, match="ended with 2"):
        train("ulog")


def test_the_full_scale_is_the_protocol():
    full = SCALES["full"]
    assert len(full.domains[28]) >= 8
    assert set(full.domains[64]) == {d.name for d in domains.DOMAINS if d.kind != "drawings"}
    assert (full.episodes, full.tuned, full.shots) == (300, 60, (1, 2, 5))
    assert {d.kind for d in domains.DOMAINS} == {"drawings", "surfaces", "photos"}
    # the ancestor learns from alphabets that are never targets
    assert all("background" not in d.place for d in domains.DOMAINS)
    for name in (ANCESTOR, "kannada"):
        line = " ".join(domains.train_command(name, 28, full, "$DATA", "$DOMAINS"))
        assert ("--from ancestor-28" in line) == (name != ANCESTOR)

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
from tests.benchmarks import transfer_table as table
from tests.benchmarks import transfer_tuning as tuning
from tests.benchmarks.transfer_domains import ANCESTOR, SCALES, Domain, Entry, Pictures
from tests.benchmarks.transfer_episodes import FIRST, HEADS, Kind, Measured
from workbench.core.context import Context
from workbench.core.values import EntryId, Preprocess
from workbench.learn import functional
from workbench.learn.calibrate import fit_temperature
from workbench.learn.protocol import Setting, Support, generator
from workbench.learn.registry import create
from workbench.transfer import prior, rank, recipes
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
    friend = NAMES[(NAMES.index(target) + 1) % len(NAMES)]
    better = {n: useful * (n == friend) + 0.2 * (n == target) for n in names}
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
    return Measured(kinds, names, correct, losses, likeness, logme, probabilities, scrambled, 0.01)


def library(**kwargs):
    return {n: fake(n, **kwargs) for n in NAMES}


# ---- what an arm may see ---------------------------------------------------------------------------------------------


def test_the_target_brings_no_entry_of_its_own():
    w = arms.world("rough", library(), APART)
    assert "rough" not in {w.measured.kinds[i].entry for i in w.kinds}
    assert "rough" not in {w.measured.names[i] for i in w.names}
    assert len(w.kinds) == 4 * 5
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
    for name in ("most similar", "combined"):
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
    assert abs(rows["combined"]["gain"]) < 0.02
    assert rows["combined"]["negative"] < 0.06
    assert "share" not in rows["combined"] or rows["oracle"]["low"] > 0


def test_placebos_give_nothing():
    for shots in (1, SHOTS):
        found = table.figures(library(shots=shots), APART, shots)
        nothing = found["placebos"]
        assert nothing["copies"]["gain"] == nothing["copies"]["high"] == 0
        assert abs(nothing["same domain"]["gain"]) < 0.02
        against = nothing["most similar of shuffled, against random"]
        assert against["low"] < 0.01
        assert against["high"] > -0.01
        assert found["scrambled"]["accuracy"] == pytest.approx(found["scrambled"]["chance"], abs=0.03)
    # by similarity alone, and with similarities that mean nothing, the default stays
    assert abs(nothing["shuffled similarity"]["gain"]) < 0.2
    one = table.figures(library(shots=1), APART, 1)["placebos"]["shuffled similarity"]
    assert abs(one["gain"]) < 0.03


def test_a_choice_by_the_queries_would_be_noticed():
    """Placebos are there to find this: losses that know the answers gain where there is nothing to gain."""
    everything = {
        d: dataclasses.replace(m, losses=-np.repeat(m.accuracy[:, :, None], 25, 2) + 1e-3 * m.losses)
        for d, m in library(useful=0.0, honest=False).items()
    }
    assert table.figures(everything, APART, SHOTS)["arms"]["combined"]["low"] > 0.03


def test_the_gate_and_the_margin_keep_the_default():
    w = arms.world("rough", library(), APART)
    base = arms.default(w)
    assert np.array_equal(arms.combined(w, arms.Settings(gate=math.inf, margin=9.0), SHOTS), base)
    assert not np.array_equal(arms.combined(w, arms.Settings(gate=0.5), SHOTS), base)
    one = arms.world("rough", library(shots=1), APART)
    assert np.array_equal(arms.combined(one, arms.Settings(margin=9.0), 1), arms.default(one))


def test_choose_for_me_is_what_the_workbench_does():
    w = arms.world("rough", library(useful=0.03), APART)
    m, left = w.measured, 0
    for gate in (0.5, 1.0, 2.0):
        got = arms.chosen(w, arms.Settings(gate=gate, margin=prior.SENIORITY), SHOTS)
        for e in range(0, 40, 4):
            options = [
                rank.Option(
                    EntryId(m.kinds[i].entry),
                    m.kinds[i].entry,
                    (("", float(m.likeness[APART + e, w.entry_of(i)])),),
                    tuple(m.losses[APART + e, i].tolist()),
                )
                for i in w.kinds
            ]
            at = int(np.flatnonzero(w.kinds == w.default)[0])
            expected = rank.choose(options, SHOTS, default=at, margin=gate).chosen
            assert w.kinds[expected] == got[e]
            left += expected != at
    assert 3 <= left <= 27  # otherwise nothing was decided


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
    members = [np.arange(20 * c, 20 * c + 20) for c in range(7)] + [np.arange(200, 203)]
    rows = episodes.drawn(members, 5, 8, seed=3)
    assert rows.shape == (8, 5 * 20)
    for row in rows:
        examples, queries = row[:25].reshape(5, 5), row[25:].reshape(5, 15)
        assert not set(examples.ravel()) & set(queries.ravel())
        assert len(set(examples.ravel())) == 25
        assert np.array_equal(examples[:, 0] // 20, queries[:, 0] // 20)
        assert 10 not in set(row // 20)  # a class of three pictures cannot show five
    assert np.array_equal(rows, episodes.drawn(members, 5, 8, seed=3))
    assert not np.array_equal(rows, episodes.drawn(members, 5, 8, seed=4))


@pytest.mark.parametrize("head", HEADS["last"])
def test_answers_are_those_of_the_algorithm(head):
    support, query = normal(2, 15, 64, seed=1).float(), normal(2, 75, 64, seed=2).float()
    y = episodes.labels(3)
    algorithm = create(head, {}, Setting("conv4", 1, 28))
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
        found = recipes.left_out(support[e], y, 5, head)
        assert torch.allclose(got[e], found.logits[0], atol=1e-8)
        assert torch.allclose(losses[e], recipes.judged(found, y).losses, atol=1e-6)
        assert float(episodes.temperatures(got, y)[e]) == pytest.approx(fit_temperature(got[e], y))


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
    assert set(found[1][3]["arms"]) == set(arms.ARMS) - {"LogME"}
    assert set(found[2][3]["arms"]) == set(scale.starts[28])
    # what is done is not done again
    monkeypatch.setattr(episodes, "measure", None)
    monkeypatch.setattr(transfer, "tune", None)
    transfer.run(scale, tmp_path, tmp_path, 1)
    # results are read back into a table
    assert len(files.all_of(transfer.BENCHMARK)) == 3
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{transfer._BEGIN}\nold\n{transfer._END}\nafter\n", encoding="utf-8")
    lines = list(table.lines(transfer.kept()))
    transfer.into_readme(lines, readme)
    text = readme.read_text(encoding="utf-8")
    assert "old" not in text
    assert text.count("| combined |") == 2
    assert text.startswith("before")
    assert text.endswith("after\n")
    readme.write_text("nothing", encoding="utf-8")
    with pytest.raises(SystemExit, match="lacks the marks"):
        transfer.into_readme(lines, readme)


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

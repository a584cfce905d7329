"""Temperature, the threshold of "none of these", and answers about examples that were left out."""

import math

import pytest
import torch
import torch.nn.functional as F

from tests.learn.toy import ToyProto, ToySteps
from workbench.core.context import Context
from workbench.core.errors import JobCancelledError
from workbench.learn import calibrate
from workbench.learn.calibrate import (
    UNCALIBRATED,
    Calibration,
    expected_temperature,
    fit_temperature,
    own_class_distances,
    prototypes,
    reject_threshold,
    slope_of,
    spread,
    task_temperatures,
    telling,
)
from workbench.learn.leaving_out import HeldOut, held_out
from workbench.learn.protocol import Support, generator


def clusters(ways, shots, scatter=0.2, seed=0, features=4, apart=3.0):
    """Embeddings ``[ways * shots, D]`` around centres, and their classes."""
    gen = torch.Generator().manual_seed(seed)
    centres = apart * torch.randn(ways, features, generator=gen)
    y = torch.arange(ways).repeat_interleave(shots)
    return centres[y] + scatter * torch.randn(len(y), features, generator=gen), y


class TestTemperature:
    def test_logits_that_claim_too_much_are_cooled_down(self):
        gen = torch.Generator().manual_seed(0)
        # labels drawn from softmax(z), shown as 5 z: the temperature that undoes it is 5
        z = torch.randn(4000, 3, generator=gen)
        drawn = torch.multinomial(torch.softmax(z, 1), 1, generator=gen)[:, 0]
        assert fit_temperature(5 * z, drawn) == pytest.approx(5.0, rel=0.1)

    def test_a_few_perfect_examples_do_not_ask_for_certainty(self):
        logits, y = torch.eye(3) * 4, torch.arange(3)
        assert 0.2 < fit_temperature(logits, y) < 1.0

    def test_nothing_to_fit_keeps_the_start(self):
        assert fit_temperature(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), start=1.7) == 1.7

    @pytest.mark.parametrize(("count", "ways", "start"), [(1, 2, 1.0), (25, 5, 1.0), (7, 20, 0.3), (40, 3, 8.0)])
    def test_it_is_the_best_of_the_grid_by_the_definition(self, count, ways, start):
        gen = torch.Generator().manual_seed(count)
        z = 4 * torch.randn(count, ways, generator=gen, dtype=torch.float64)
        y = torch.randint(0, ways, (count,), generator=gen)
        z[:, -1] -= 1e9 * (y != ways - 1)  # a class that an episode lacks
        grid = torch.linspace(-5, 5, 201).double()
        wanted = [float(F.cross_entropy(z / (start * g.exp()), y, reduction="sum") + g**2) for g in grid]
        assert fit_temperature(z, y, start) == start * float(grid[wanted.index(min(wanted))].exp())

    def test_pieces_give_the_same_as_the_whole(self, monkeypatch):
        gen = torch.Generator().manual_seed(1)
        logits, y = 3 * torch.randn(50, 4, generator=gen), torch.randint(0, 4, (50,), generator=gen)
        whole = fit_temperature(logits, y)
        monkeypatch.setattr(calibrate, "_NUMBERS_AT_ONCE", 7)
        assert fit_temperature(logits, y) == whole

    def test_many_sixty_way_queries_fit_into_memory(self, monkeypatch):
        """All 201 temperatures of 30,000 queries at once would be 3 GB a copy."""
        largest = []
        real = torch.logsumexp
        monkeypatch.setattr(torch, "logsumexp", lambda x, dim: largest.append(x.numel()) or real(x, dim))
        gen = torch.Generator().manual_seed(1)
        fit_temperature(torch.randn(3000, 60, generator=gen), torch.randint(0, 60, (3000,), generator=gen))
        assert max(largest) <= 2_000_000


TYPICAL = 1 + 137 / 300  # mean of 1 + 1/K for one to five


def drawn_about_centres(shots, seed, tasks=150, ways=20, features=2, apart=6.0):
    """Logits of new pictures ``[Q, N]`` of Gaussian classes by minus half the squared distance, and their classes.

    The centres are those of ``shots`` examples. The pictures scatter by 1 about the true ones, so they lie about those
    measured with variance ``1 + 1 / shots``, and half the distance over that is what a picture's log-likelihood is.
    """
    gen = torch.Generator().manual_seed(seed)
    logits = []
    for _ in range(tasks):
        true = apart * torch.randn(ways, features, generator=gen)
        measured = true + torch.randn(ways, features, generator=gen) / shots**0.5
        pictures = true + torch.randn(ways, features, generator=gen)
        logits.append(-torch.cdist(pictures, measured).square() / 2)
    return torch.cat(logits), torch.arange(ways).repeat(tasks)


class TestTemperatureOfATask:
    def answers(self, shots, ways=5):
        """Left-out answers of a task, sure of themselves."""
        y = torch.arange(ways).repeat_interleave(shots)
        return HeldOut(torch.arange(len(y)), 3 * F.one_hot(y, ways).double(), None), y

    def test_it_grows_with_how_uncertain_a_centre_is(self):
        """The temperature that suits new pictures of Gaussian classes is that of their centres: ``1 + 1 / K``."""
        found = [fit_temperature(*drawn_about_centres(shots, shots)) for shots in (1, 2, 5)]
        assert found == pytest.approx([2.0, 1.5, 1.2], rel=0.08)

    def test_the_less_a_task_is_like_the_sources_the_less_sure_are_its_answers(self):
        found = [expected_temperature(1.7, likeness) for likeness in (1.0, 0.9, 0.5, 0.0)]
        assert found == pytest.approx([1.7, 1.7 * math.exp(0.01), 1.7 * math.exp(0.25), 1.7 * math.e])

    def test_without_left_out_answers_the_knowledges_own_is_turned_into_that_of_the_shots(self):
        nothing = HeldOut(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 2), None)
        one, mixed = torch.tensor([0, 1]), torch.tensor([0, 1, 1, 1])
        assert task_temperatures(nothing, one, 2, 1.7).answers == pytest.approx(1.7 * 2 / TYPICAL)
        assert task_temperatures(nothing, mixed, 2, 1.7).answers == pytest.approx(1.7 * (1 + (1 + 1 / 3) / 2) / TYPICAL)

    @pytest.mark.parametrize(
        ("shots", "parts", "ratio"),
        [
            (2, 2, 1.5 / 2),
            (2, None, 1.5 / 2),
            (5, 5, 1.2 / 1.25),
            (6, 3, (7 / 6) / 1.25),
            (40, 10, (41 / 40) / (37 / 36)),
        ],
    )
    def test_what_was_fitted_from_fewer_examples_is_brought_to_all(self, shots, parts, ratio):
        left_out, y = self.answers(shots)
        found = task_temperatures(left_out, y, 5, 1.3, parts)
        assert found.answers == pytest.approx(ratio * found.left_out)
        start = 1.3 * ratio_of_left_out(shots, parts) / TYPICAL
        assert found.left_out == pytest.approx(fit_temperature(left_out.logits, y, start))

    @pytest.mark.parametrize("shots", [1, 2, 5])
    def test_heads_that_ask_no_centres_have_the_same_at_every_number_of_examples(self, shots):
        left_out, y = self.answers(shots)
        if shots == 1:
            left_out = HeldOut(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 5), None)
        found = task_temperatures(left_out, y, 5, 1.3, shots, centres=False)
        fitted = 1.3 if shots == 1 else fit_temperature(left_out.logits, y, 1.3)
        assert found == pytest.approx((fitted, fitted))

    def test_only_the_examples_that_were_asked_about_count(self):
        y = torch.tensor([0, 0, 1])
        rows = torch.tensor([1, 0])  # the third is all that its class has
        logits = torch.tensor([[2.0, 0.0], [-1.0, 0.0]])
        found = task_temperatures(HeldOut(rows, logits, None), y, 2, 1.0)
        # one left out of two, and a class that keeps its one: (1 + 1/1 + 1 + 1/1) / 2
        assert found.left_out == pytest.approx(fit_temperature(logits, torch.tensor([0, 0]), 2 / TYPICAL))
        assert found.answers == pytest.approx(found.left_out * (1 + (1 / 2 + 1) / 2) / 2)

    def test_an_entrys_figure_does_not_depend_on_the_shots_of_its_episodes(self):
        figures = []
        for shots in (1, 5):
            learnt = Calibration()
            y = torch.arange(20).repeat_interleave(shots)
            support = torch.randn(20 * shots, 8, generator=torch.Generator().manual_seed(0))
            logits, truth = drawn_about_centres(shots, shots)
            learnt.add(logits, torch.zeros(len(truth), 8), truth, support, y, 20)
            figures.append(learnt.figures()["temperature"])
        assert figures == pytest.approx([TYPICAL] * 2, rel=0.08)

    def test_nor_is_it_changed_where_no_centres_are_asked(self):
        y, (logits, truth) = torch.arange(20), drawn_about_centres(1, 1)
        learnt = Calibration(centres=False)
        learnt.add(logits, torch.zeros(len(truth), 8), truth, torch.randn(20, 8, generator=generator(0)), y, 20)
        assert learnt.figures()["temperature"] == fit_temperature(logits, truth)


def ratio_of_left_out(shots, parts):
    """``1 + 1 / n`` of the examples that stay."""
    return 1 + 1 / (shots - 1 if parts is None else shots - math.ceil(shots / parts))


class TestThreshold:
    def test_left_out_distances_are_those_of_a_new_picture(self):
        """Over many draws their mean square is that of a fresh picture to the mean of all examples."""
        found, wanted = [], []
        for seed in range(300):
            gen = torch.Generator().manual_seed(seed)
            x = torch.randn(4, 8, generator=gen)
            found.append(own_class_distances(x[:3], torch.zeros(3, dtype=torch.int64), 1).square().mean())
            wanted.append((x[3] - x[:3].mean(0)).square().sum())
        assert float(torch.stack(found).mean()) == pytest.approx(float(torch.stack(wanted).mean()), rel=0.05)

    def test_by_hand(self):
        x, y = torch.tensor([[0.0], [2.0], [9.0]]), torch.tensor([0, 0, 1])
        # the mean of the other is 2 away; a class of one has none
        assert own_class_distances(x, y, 2).tolist() == pytest.approx([2 * math.sqrt(3) / 2] * 2)

    def test_one_example_each_asks_the_library(self):
        x, y = clusters(4, 1)
        threshold, width = reject_threshold(x, y, 4, {"reject_factor": 0.7})
        # 2 = 1 + 1/1, and 1 + 137/300 the mean of 1 + 1/K for one to five
        assert threshold == pytest.approx(0.7 * spread(prototypes(x, y, 4)) * (2 / (1 + 137 / 300)) ** 0.5, rel=1e-6)
        assert width == pytest.approx(0.1 * threshold)

    def test_a_single_class_falls_back_to_a_plain_distance(self):
        x = torch.tensor([[1.0, 2.0]])
        assert reject_threshold(x, torch.tensor([0]), 1, {"reject_distance": 3.5})[0] == pytest.approx(3.5)

    def test_examples_weigh_n_in_n_plus_ten(self):
        x, y = corners(5, 2)
        figures = {"reject_factor": 0.5, "reject_ratio": 1.5}
        own = 1.5 * float(own_class_distances(x, y, 5).square().mean().sqrt())
        library = 0.5 * spread(prototypes(x, y, 5)) * (1.5 / (1 + 137 / 300)) ** 0.5
        assert reject_threshold(x, y, 5, figures)[0] == pytest.approx(0.5 * own + 0.5 * library, rel=1e-5)

    def test_unequal_shots_and_an_odd_example(self):
        x, y = clusters(3, 4)
        keep = torch.tensor([0, 1, 2, 3, 4, 8, 9])
        threshold, width = reject_threshold(x[keep], y[keep], 3, UNCALIBRATED)
        assert 0 < width < threshold < math.inf

    def test_equal_pictures_still_give_a_positive_width(self):
        threshold, width = reject_threshold(torch.zeros(4, 3), torch.tensor([0, 0, 1, 1]), 2)
        assert threshold > 0
        assert width > 0

    def test_about_one_in_twenty_of_the_known_lies_beyond_it(self):
        """The figures of some tasks, used on others of the same kind with other numbers of examples."""
        learnt = Calibration()
        for seed in range(60):
            x, y = clusters(5, 8, scatter=0.6, seed=seed, features=16)
            s = torch.arange(len(y)) % 8 < 2 + seed % 4
            learnt.add(torch.zeros(int((~s).sum()), 5), x[~s], y[~s], x[s], y[s], 5)
        figures = learnt.figures()
        for shots in (1, 2, 3, 5):
            beyond = []
            for seed in range(1000, 1100):
                x, y = clusters(5, shots + 3, scatter=0.6, seed=seed, features=16)
                s = torch.arange(len(y)) % (shots + 3) < shots
                threshold, _ = reject_threshold(x[s], y[s], 5, figures)
                centres = prototypes(x[s], y[s], 5)
                beyond.append(((x[~s] - centres[y[~s]]).norm(dim=1) > threshold).double())
            assert 0.02 < float(torch.cat(beyond).mean()) < 0.09, shots


def corners(ways, shots, scatter=0.6, seed=0):
    """Embeddings about centres that lie equally far apart, and their classes."""
    gen = torch.Generator().manual_seed(seed)
    y = torch.arange(ways).repeat_interleave(shots)
    return 6 * torch.eye(ways)[y] + scatter * torch.randn(len(y), ways, generator=gen), y


def none_at(distances, threshold, width):
    """P(none) at these distances."""
    return torch.sigmoid((torch.as_tensor(distances, dtype=torch.float64) - threshold) / width)


class TestWhetherDistancesTell:
    def test_by_hand(self):
        x, y = torch.tensor([[0.0], [2.0], [10.0], [12.0]]), torch.tensor([0, 0, 1, 1])
        # from the other of their class 2 away, as new ones 2 sqrt(3)/2; from the other class's centre 11, 9, 9 and 11
        slope, n = telling(x, y, 2)
        assert n == 4
        assert slope == pytest.approx((10 - 3**0.5) / ((0 + 4 / 3) / 2))

    def test_an_example_nearer_to_another_class_tells_nothing(self):
        x, y = torch.tensor([[0.0], [10.0], [0.0], [10.0]]), torch.tensor([0, 0, 1, 1])
        # own 10 sqrt(3)/2, the other centre 5 away: the same distance whether its class was taught or not
        assert telling(x, y, 2) == (0.0, 4)

    def test_the_order_of_the_examples_changes_nothing(self):
        x, y = clusters(4, 3)
        order = torch.randperm(12, generator=torch.Generator().manual_seed(3))
        assert telling(x[order], y[order], 4)[0] == pytest.approx(telling(x, y, 4)[0], rel=1e-5)

    def test_classes_of_one_and_a_single_class_are_not_asked(self):
        x, y = clusters(3, 3)
        assert telling(x[:7], y[:7], 3)[1] == 6
        assert telling(x[:3], y[:3], 1) == (0.0, 0)
        assert telling(x[::3], y[::3], 3) == (0.0, 0)

    def test_it_is_the_slope_of_the_log_odds(self):
        """Against the densities of two Gaussians: the log-odds of distances that scatter by 0.5 about 3 and about 4."""
        # two classes on a line; the first one's examples lie so that the distances are the quantiles of the Gaussians
        normal = torch.distributions.Normal(
            torch.tensor(0.0, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
        )
        at = normal.icdf((torch.arange(400, dtype=torch.float64) + 0.5) / 400)
        known, strange = 3 + at, 4 + at
        log_odds = normal.log_prob(known - 4) - normal.log_prob(known - 3)
        rise = float((log_odds[-1] - log_odds[0]) / (known[-1] - known[0]))
        assert slope_of(known, strange) == pytest.approx(rise, rel=0.02)

    @pytest.mark.parametrize("likeness", [1.0, 0.6, 0.2])
    def test_with_one_example_the_log_odds_are_drawn_to_one_in_twenty_by_unlikeness(self, likeness):
        x, y = clusters(4, 1)
        home = reject_threshold(x, y, 4)
        d = torch.linspace(0, 20, 9, dtype=torch.float64)
        wanted = likeness * (d - home[0]) / home[1] + (1 - likeness) * math.log(0.05 / 0.95)
        assert torch.allclose(torch.logit(none_at(d, *reject_threshold(x, y, 4, likeness=likeness))), wanted, atol=1e-6)

    def test_one_example_far_from_home_says_one_in_twenty_of_every_picture(self):
        x, y = clusters(4, 1)
        threshold, width = reject_threshold(x, y, 4, likeness=0.0)
        far = none_at([0.0, reject_threshold(x, y, 4)[0] * 4], threshold, width)
        assert 0.04 < float(far[0]) < float(far[1]) < 0.08

    @pytest.mark.parametrize("shots", [2, 5])
    @pytest.mark.parametrize("likeness", [0.0, 1.0])
    def test_classes_that_cannot_be_told_apart_are_not_refused(self, shots, likeness):
        """The same cloud for all: whatever is refused is refused for nothing."""
        none = []
        for seed in range(40):
            x, y = clusters(5, shots + 4, scatter=1.0, seed=seed, features=16, apart=0.0)
            s = torch.arange(len(y)) % (shots + 4) < shots
            threshold, width = reject_threshold(x[s], y[s], 5, likeness=likeness)
            none.append(none_at(torch.cdist(x[~s], prototypes(x[s], y[s], 5)).amin(1), threshold, width))
        assert float(torch.cat(none).mean()) < 0.12
        assert float((torch.cat(none) > 0.5).double().mean()) < 0.03, "7 to 10 % where distances always count"

    def test_classes_far_apart_are_told_from_the_unknown_as_at_home_wherever_they_are_from(self):
        x, y = corners(5, 5)
        threshold, width = reject_threshold(x, y, 5)
        assert width == pytest.approx(0.1 * threshold)
        # 25 examples that say "twice" outweigh an unlikeness that counts as three
        assert reject_threshold(x, y, 5, likeness=0.0) == (threshold, width)
        figures = {"reject_factor": 0.5, "reject_ratio": 1.5}
        own = 1.5 * float(own_class_distances(x, y, 5).square().mean().sqrt())
        library = 0.5 * spread(prototypes(x, y, 5)) * (1.2 / TYPICAL) ** 0.5
        wanted = 25 / 35 * own + 10 / 35 * library
        assert reject_threshold(x, y, 5, figures)[0] == pytest.approx(wanted, rel=1e-5)


class TestCalibration:
    def test_different_ways_are_put_together(self):
        learnt = Calibration()
        for ways in (2, 4):
            x, y = clusters(ways, 4, seed=ways)
            s = torch.arange(len(y)) % 4 < 2
            learnt.add(F.one_hot(y[~s], ways).float(), x[~s], y[~s], x[s], y[s], ways)
        assert len(learnt) == 2
        figures = learnt.figures()
        assert set(figures) == set(UNCALIBRATED)
        assert all(math.isfinite(v) and v > 0 for v in figures.values())

    def test_one_shot_episodes_say_nothing_of_the_ratio(self):
        learnt = Calibration()
        x, y = clusters(3, 2)
        s = torch.arange(6) % 2 == 0
        learnt.add(torch.zeros(3, 3), x[~s], y[~s], x[s], y[s], 3)
        assert "reject_ratio" not in learnt.figures()

    def test_without_an_episode_there_is_no_figure(self):
        with pytest.raises(ValueError, match="nothing"):
            Calibration().figures()


def support(shots, features=True, seed=0):
    """A toy support set with these shots per class."""
    y = torch.tensor([c for c, n in enumerate(shots) for _ in range(n)])
    gen = torch.Generator().manual_seed(seed)
    pattern = torch.randn(len(shots), 1, 8, 8, generator=gen)
    x = pattern[y] + 0.3 * torch.randn(len(y), 1, 8, 8, generator=gen)
    toy = ToyProto()
    state = toy.init(generator(0))
    f = toy.embed(state, None, x) if features else None
    return toy, state, Support(x, y, len(shots), f)


class TestHeldOut:
    def test_every_example_is_asked_about_without_having_been_seen(self):
        toy, state, s = support([3, 3, 2])
        found = held_out(toy, state, s, Context())
        assert sorted(found.rows.tolist()) == list(range(8))
        for row, logits in zip(found.rows.tolist(), found.logits, strict=True):
            rest = torch.arange(8) != row
            means = toy.means(s.features[rest], s.y[rest], 3)
            assert torch.allclose(logits, toy.distances(s.features[row : row + 1], means)[0], atol=1e-4)

    def test_a_class_of_one_keeps_its_example(self):
        toy, state, s = support([3, 1])
        assert sorted(held_out(toy, state, s, Context()).rows.tolist()) == [0, 1, 2]
        toy, state, s = support([1, 1, 1])
        found = held_out(toy, state, s, Context())
        assert found.rows.numel() == 0
        assert found.logits.shape == (0, 3)

    @pytest.mark.parametrize("shots", [[2, 2], [5, 5, 5], [7, 1, 3], [2, 9]])
    @pytest.mark.parametrize("folds", [1, 3, 10])
    def test_folds_ask_about_every_example_once_and_never_empty_a_class(self, shots, folds):
        _, state, s = support(shots)
        seen = []
        real = ToyProto.adapt

        class Watching(ToyProto):
            def adapt(self, state, part, ctx, **rest):
                seen.append(len(part.y))
                return real(self, state, part, ctx, **rest)

        found = held_out(Watching(), state, s, Context(), folds)
        wanted = [i for i, c in enumerate(s.y.tolist()) if shots[c] > 1]
        assert sorted(found.rows.tolist()) == wanted
        assert len(seen) <= max(folds, 2)

    def test_every_part_lacks_one_of_every_class_however_small(self):
        _, state, s = support([2, 6, 1])
        parts = []
        real = ToyProto.adapt

        class Watching(ToyProto):
            def adapt(self, state, part, ctx, **rest):
                parts.append(torch.bincount(part.y, minlength=3).tolist())
                return real(self, state, part, ctx, **rest)

        found = held_out(Watching(), state, s, Context(), 6)
        assert parts == [[1, 5, 1]] * 6
        assert sorted(found.rows.tolist()) == list(range(8)), "each is asked about once"

    def test_a_copy_is_left_out_with_its_original(self):
        """Otherwise the copy in the other class answers for it."""
        toy, state, s = support([3, 3])
        x = s.x.clone()
        x[3] = x[0]  # the same picture in both classes
        s = Support(x, s.y, 2, toy.embed(state, None, x))
        names = ["a", "b", "c", "a", "d", "e"]
        blind = held_out(toy, state, s, Context(), same=names)
        row = blind.rows.tolist().index(0)
        rest = torch.tensor([1, 2, 4, 5])
        means = toy.means(s.features[rest], s.y[rest], 2)
        assert torch.allclose(blind.logits[row], toy.distances(s.features[:1], means)[0], atol=1e-4)
        told = held_out(toy, state, s, Context())
        assert not torch.allclose(blind.logits[row], told.logits[row])

    def test_a_copy_that_is_all_its_class_has_stays(self):
        toy, state, s = support([2, 1])
        assert held_out(toy, state, s, Context(), same=["a", "b", "a"]).rows.tolist() == [0, 1]

    def test_gradient_steps_tell_of_before_and_after(self):
        _, state, s = support([3, 3], features=False)
        found = held_out(ToySteps(), state, s, Context(), 3)
        assert found.before is not None
        assert found.before.shape == found.logits.shape == (6, 2)
        assert not torch.allclose(found.before, found.logits)

    def test_a_stop_is_heeded_between_adaptations(self):
        toy, state, s = support([3, 3])
        ctx = Context()
        ctx.cancel()
        with pytest.raises(JobCancelledError):
            held_out(toy, state, s, ctx)

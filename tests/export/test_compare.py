from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from workbench.export.compare import Answers, Expected, compare, figure, judge

LOGITS = np.asarray([[100.0, 1.0], [2.0, 2.0001], [1.0, 5.0]], np.float32)
PROBABILITIES = np.asarray([[0.8, 0.1, 0.1], [0.4, 0.4005, 0.1995], [0.1, 0.2, 0.7]], np.float32)


def expected() -> Expected:
    return Expected(LOGITS, PROBABILITIES, ("a", "b", "c"))


def got(logits=LOGITS, probabilities=PROBABILITIES) -> Answers:
    return Answers(logits, probabilities, logits.copy(), probabilities.copy())


def failed(found) -> list[str]:
    return [c.name for c in judge(found) if not c.ok]


def test_equal_answers_agree() -> None:
    found = compare(expected(), got())
    assert failed(found) == []
    assert (found.images, found.clear, found.same_top, found.same_rejection) == (3, 2, 2, 3)
    assert (found.logit_difference, found.probability_difference, found.batch_difference) == (0, 0, 0)
    assert [t.index for t in found.near_ties] == [1]
    assert found.near_ties[0].classes == (1, 0)
    assert found.agreement[0] == (0, pytest.approx(0.8), pytest.approx(0.8))


def test_a_near_tie_may_turn_and_anything_else_may_not() -> None:
    turned = PROBABILITIES.copy()
    turned[1, :2] = turned[1, 1::-1]
    found = compare(expected(), got(probabilities=turned))
    assert found.same_top == found.clear == 2
    turned = PROBABILITIES.copy()
    turned[0, :2] = turned[0, 1::-1]
    found = compare(expected(), got(probabilities=turned))
    assert found.same_top == 1
    assert "Same top class" in failed(found)


@pytest.mark.parametrize(("off", "names"), [(0.9e-3, []), (1.1e-3, ["Same logits"])])
def test_logits_are_measured_against_the_largest(off: float, names: list[str]) -> None:
    logits = LOGITS.copy()
    logits[2, 0] += off
    assert failed(compare(expected(), got(logits=logits))) == names


@pytest.mark.parametrize(("off", "names"), [(4e-4, []), (6e-4, ["Same probabilities"])])
def test_probabilities_are_measured_as_they_are(off: float, names: list[str]) -> None:
    p = PROBABILITIES.copy()
    p[0, 2] += off
    assert failed(compare(expected(), got(probabilities=p))) == names


def test_another_none_of_these_is_noticed() -> None:
    p = PROBABILITIES.copy()
    p[2] = [0.1, 0.7, 0.2]
    found = compare(expected(), got(probabilities=p))
    assert found.same_rejection == 2
    assert "Same none-of-these" in failed(found)


def test_answers_that_depend_on_company_are_noticed() -> None:
    alone = LOGITS.copy()
    alone[0, 0] += 0.01
    found = compare(expected(), replace(got(), logits_alone=alone))
    assert "Alone as in company" in failed(found)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_never_agree(bad: float) -> None:
    p, z = PROBABILITIES.copy(), LOGITS.copy()
    p[0, 0] = z[0, 0] = bad
    found = compare(expected(), got(z, p))
    assert {"Same logits", "Same probabilities"} <= set(failed(found))
    assert figure(found.logit_difference) == "not finite"


def test_another_number_of_classes_never_agrees() -> None:
    found = compare(expected(), got(LOGITS[:, :1]))
    assert "Same logits" in failed(found)


def test_small_numbers_read_well() -> None:
    assert [figure(v) for v in (3.44e-6, 0.0, 1.0)] == ["3.4 × 10⁻⁶", "0", "1.0 × 10⁰"]

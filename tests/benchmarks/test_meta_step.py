from dataclasses import replace

import pytest
import torch

from tests.benchmarks import meta_step
from workbench.learn import fast


@pytest.mark.parametrize("key", sorted(meta_step.ROWS))
def test_the_fast_path_agrees_with_the_textbook(key):
    row = meta_step.ROWS[key]
    small = replace(row, ways=3, shots=min(row.shots, 2), tasks=2)
    assert meta_step.agreement(small, size=16) < meta_step.AGREES


def test_a_first_order_step_is_told_from_a_second_order_one():
    row = replace(meta_step.ROWS["maml-1"], ways=3, tasks=1)
    second, first = (meta_step.Case(replace(row, key=key), torch.float64, 1, 16).full() for key in ("maml", "fomaml"))
    assert meta_step.difference(first, second) > 0.01


def test_what_is_kept_of_a_row_holds_every_form_and_its_ratio():
    row = replace(meta_step.ROWS["fomaml"], ways=3, tasks=1)
    times = meta_step.timed(row, 2, tasks=1, size=16)
    found = meta_step.figures(row, times, 1e-12)
    low = {"bf16"} if fast.native() else set()
    assert set(found["forms"]) == {"textbook", "peer", "clear", "full"} | low
    assert all(len(form["rounds"]) == 2 for form in found["forms"].values())
    assert found["forms"]["textbook"]["ratio"] == 1.0
    assert "FOMAML" in meta_step.line(found)

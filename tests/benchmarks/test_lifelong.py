"""What the lifelong benchmark makes of its accuracies, and its frozen form on alphabets of noise."""

import numpy as np
import pytest

from tests.benchmarks import files, lifelong
from workbench.data.source import Source
from workbench.learn.protocol import generator


def test_figures_of_a_series():
    """Two alphabets, two episodes: 0.9 when the first was learnt, 0.7 in the end."""
    rows = [
        [(0.5, 0.3), (0.4, 0.2)],
        [(0.9, 0.9), (0.5, 0.3)],
        [(0.6, 0.8), (1.0, 0.8)],
    ]
    found = lifelong.figures(rows)
    assert found["R"] == [[0.4, 0.3], [0.9, 0.4], [0.7, 0.9]]
    assert found["backward"] == pytest.approx([-0.3, -0.1])
    assert found["lost"] == pytest.approx([0.3, 0.1])
    assert found["forward"] == pytest.approx([0.1, 0.1])
    assert lifelong.mean(found["average"]) == pytest.approx(0.8)


def test_the_table_says_how_much_less_is_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "RESULTS", tmp_path)
    for arm, end in (("plain", 0.5), ("ewc", 0.8)):
        rows = [[(0.5, 0.4)] * 2, [(0.9, 0.9), (0.5, 0.4)], [(end, end), (0.9, 0.8)]]
        made = {**lifelong.figures(rows), "strength": 10.0, "alphabets": ["a", "b"]}
        files.write(lifelong.BENCHMARK, lifelong.command(arm, 0), 0, made)
    lines = list(lifelong.table())
    assert "| EWC, strength 10 | 82.5" in lines[3]
    assert "40.0 ± 0.0" in lines[2]
    assert lines[-1] == "EWC loses 0.25 of what plain fine-tuning loses on the first five alphabets."


def alphabets(count):
    out = []
    for i in range(count):
        gen = np.random.default_rng(i)
        arrays = tuple(gen.integers(0, 256, (20, 28, 28, 1), dtype=np.uint8) for _ in range(14))
        whole = Source(f"a{i}", tuple(f"c{c}" for c in range(14)), arrays)
        asked = lifelong._asked(whole, (0.5,), (0.3,), i).first(3)
        out.append(lifelong.Alphabet(lifelong._learnt(whole), whole, asked))
    return out


def test_the_frozen_form_is_the_batch_one_and_asks_only_about_unseen_drawings(monkeypatch):
    made = alphabets(2)
    p = lifelong.Parts(tuple(made), (), tuple(made), (0.5,), (0.3,))
    state = lifelong.protonet().init(generator(0))
    found = lifelong.frozen(made, p, state)
    assert found["apart"] < 1e-10
    assert [len(r) for r in found["R"]] == [1, 2]
    assert found["classes"] == 28
    for a in made:
        for d in a.asked.drawn:
            assert set((d.support_ids >> 2) % 20) <= set(range(14))
            assert set((d.query_ids >> 2) % 20) <= set(range(14, 20))
    right = lifelong.slda.streamed

    def forgets(sums, x, y, ways):
        return right(None if sums is not None and ways > len(sums["counts"]) else sums, x, y, ways)

    monkeypatch.setattr(lifelong.slda, "streamed", forgets)
    with pytest.raises(SystemExit, match="apart"):
        lifelong.frozen(made, p, state)

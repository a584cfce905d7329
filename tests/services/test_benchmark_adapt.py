"""The benchmark of adapting: every algorithm is in it, in the forms that are promised, and each run does the work."""

from __future__ import annotations

import pytest
import torch

from tests.benchmarks import adapt, files
from workbench.core.context import Context
from workbench.learn import quick, registry
from workbench.learn.protocol import Setting, Support, generator


def test_every_algorithm_has_a_form_and_the_targets_of_its_kind() -> None:
    for key, kind in registry.algorithms().items():
        for backbone, _, steps in adapt.forms(key):
            cold, cached = adapt.target(key, backbone, steps)
            if "cacheable" in kind.info.tags:
                assert (cold, cached) == (0.3, 0.03)
            elif "gradient-based" not in kind.info.tags:
                assert (cold, cached) == (0.3, None)
            else:
                assert cached is None
    assert [adapt.target("maml", b, n)[0] for b, _, n in adapt.forms("maml")] == [1.5, 1.5, 3.0]
    assert adapt.forms("anil") == (("conv4", {}, None),)


@pytest.mark.parametrize("key", ["protonet", "anil"])
def test_cold_and_cached_give_the_answer_of_the_algorithm(key: str) -> None:
    (case,) = adapt.cases(key, size=16)
    assert case.cached is not None
    algorithm = registry.create(key, {}, Setting("conv4", 3, 16, 5))
    state = algorithm.init(generator(0))
    x = torch.randn(25, 3, 16, 16, generator=generator(0))
    y = torch.arange(5).repeat_interleave(5)
    expected = algorithm.logits(state, algorithm.adapt(state, Support(x, y, 5), Context()), x[:1])
    for run in (case.cold, case.cached):
        torch.testing.assert_close(run(), expected, rtol=1e-4, atol=1e-4)


def test_classes_to_borrow_from_are_known() -> None:
    (case,) = adapt.cases("calibrated", size=16)
    algorithm = registry.create("calibrated", {}, Setting("conv4", 3, 16, 5, (adapt.SOURCE_CLASSES,)))
    state = algorithm.init(generator(0))
    x = torch.randn(25, 3, 16, 16, generator=generator(0))
    support = Support(x, torch.arange(5).repeat_interleave(5), 5)
    unknown = algorithm.logits(state, algorithm.adapt(state, support, Context()), x[:1])
    assert not torch.allclose(case.cold(), unknown, rtol=1e-3, atol=1e-3)
    state = adapt.measured(algorithm, state, 16)
    expected = algorithm.logits(state, algorithm.adapt(state, support, Context()), x[:1])
    torch.testing.assert_close(case.cold(), expected, rtol=1e-4, atol=1e-4)


def test_a_transductive_method_gets_what_it_asks_about(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    kind, seen = registry.algorithms()["tim"], []
    real = kind.adapt

    def adapt_(self, s, support, ctx, *, unlabelled=None, on_step=None):  # type: ignore[no-untyped-def]
        seen.append(unlabelled.shape[:1])
        return real(self, s, support, ctx, unlabelled=unlabelled, on_step=on_step)

    monkeypatch.setattr(kind, "adapt", adapt_)
    for case in adapt.cases("tim", size=16):
        for run in (case.cold, case.cached):
            assert run is None or run().shape == (1, 5)
    assert set(seen) == {(75,)}


def test_steps_are_as_many_as_said() -> None:
    for case, (backbone, steps, _) in zip(adapt.cases("fomaml", size=16), adapt.STEPPED, strict=True):
        assert (case.backbone, case.steps) == (backbone, steps)
        algorithm = registry.create("fomaml", {"test_steps": steps}, Setting(backbone, 3, 16, 5))
        state = algorithm.init(generator(0))
        x = torch.randn(25, 3, 16, 16, generator=generator(0))
        support = Support(x, torch.arange(5).repeat_interleave(5), 5)
        with quick.passes():  # ten steps on noise magnify the last bit: so the same way
            expected = algorithm.logits(state, algorithm.adapt(state, support, Context()), x[:1])
        torch.testing.assert_close(case.cold(), expected, rtol=1e-3, atol=1e-3)


def test_the_median_stands_beside_the_target_and_a_miss_is_said() -> None:
    (case,) = adapt.cases("protonet", size=16)
    r = adapt.row(case, adapt.Times([0.1, 0.5, 0.31], [0.01, 0.02, 0.03]))
    assert (r["cold"], r["cached"]) == (0.31, 0.02)
    assert adapt.missed(r) == ["cold"]
    assert "cold MISSED" in adapt.line(r)
    assert "310.0 ms (<= 300)" in adapt.line(r)


def test_it_writes_its_result(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(files, "RESULTS", tmp_path)
    monkeypatch.setattr(adapt, "SIZE", 16)
    real = adapt.cases
    monkeypatch.setattr(adapt, "cases", lambda key: real(key, size=16))
    assert adapt.main(["--rounds", "1", "--only", "protonet", "simpleshot"]) in {0, 1}
    (result,) = files.all_of("adapt")
    assert result.command.endswith("adapt --rounds 1 --only protonet simpleshot")
    assert [r["algorithm"] for r in result.figures["rows"]] == ["protonet", "simpleshot"]
    assert all(len(r["cold_all"]) == 1 for r in result.figures["rows"])
    assert capsys.readouterr().out.count(" ms") == 4

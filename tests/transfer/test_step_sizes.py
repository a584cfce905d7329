"""Mixed step sizes: what one step with them does, whose they are, what is refused (float64)."""

import pytest
import torch

from tests.learn import tasks
from workbench.core.context import Context
from workbench.core.errors import WorkbenchError
from workbench.learn import functional, inner
from workbench.learn.protocol import Setting, State, Support, generator
from workbench.learn.registry import create
from workbench.transfer import mixing, step_sizes
from workbench.transfer.mixing import NULL


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def doubled(state):
    return State(*({n: t.double() for n, t in part.items()} for part in state))


def near(state, seed):
    """A descendant: other numbers for everything, tables of its own."""
    gen = generator(seed)
    change = lambda t: t + 0.1 * torch.randn(t.shape, generator=gen, dtype=t.dtype)  # noqa: E731
    return State(
        {n: change(t) for n, t in state.learned.items()}, {n: change(t).abs() for n, t in state.memory.items()}
    )


def setting(key="meta-sgd", **params):
    tasks.tiny_backbone()
    algorithm = create(key, {"head": "prototype", **params}, Setting("tiny-smooth", 1, tasks.SIZE, ways=3))
    first = doubled(algorithm.init(generator(0)))
    states = {NULL: first, **{f"m{i}": near(first, i) for i in range(3)}}
    mark = mixing.trunk_of(algorithm.network, first, "first").digest
    return algorithm, states, {n: mark for n in states if n != NULL}


def equal(a, b):
    return all(torch.equal(x[n], y[n]) for x, y in zip(a, b, strict=True) for n in x | y)


def test_all_the_weight_on_one_is_that_entry_to_the_last_bit():
    for key in ("meta-sgd", "maml++"):
        algorithm, states, ancestors = setting(key)
        for name in states:
            assert equal(step_sizes.mixed_state(algorithm.network, states, ancestors, {name: 1.0}), states[name])


def test_equal_weights_are_the_plain_mean_of_everything():
    for key in ("meta-sgd", "maml++"):
        algorithm, states, ancestors = setting(key)
        got = step_sizes.mixed_state(algorithm.network, states, ancestors, dict.fromkeys(ancestors, 1 / 3))
        for k, part in enumerate(got):
            for name, tensor in part.items():
                expected = torch.stack([states[n][k][name] for n in ancestors]).mean(0)
                assert torch.allclose(tensor, expected, rtol=0, atol=1e-14), name


def test_one_step_with_the_mixed_table_is_the_mean_of_the_steps_with_each():
    _, states, _ = setting()
    weights = {"m0": 0.5, "m1": 0.2, "m2": 0.3}
    tables = {n: step_sizes.table(states[n]) for n in weights}
    theta, ends = {"w": normal(6)}, {}
    for name, alpha in {**tables, "mixed": step_sizes.mixed_tables(tables, weights)}.items():
        rate = {"w": alpha["alpha.trunk.norm.bias"][:6]}
        loss = lambda t: (t["w"] ** 4).sum()  # noqa: E731
        *_, end = inner.descent(loss, theta, lr=rate, steps=1, order="none", ctx=Context())
        ends[name] = end["w"].detach()
    expected = sum(w * ends[n] for n, w in weights.items())
    torch.testing.assert_close(ends["mixed"], expected, rtol=0, atol=1e-13)


def test_negative_step_sizes_keep_their_sign():
    tables = {"a": {"alpha.w": torch.tensor([-0.4, 0.2])}, "b": {"alpha.w": torch.tensor([-0.2, -0.6])}}
    got = step_sizes.mixed_tables(tables, {"a": 0.5, "b": 0.5})["alpha.w"]
    torch.testing.assert_close(got, torch.tensor([-0.3, -0.2]))


def test_an_ancestor_without_a_table_leaves_the_sources_their_shares():
    tables = {NULL: {}, "a": {"alpha.w": torch.tensor([1.0])}, "b": {"alpha.w": torch.tensor([4.0])}}
    got = step_sizes.mixed_tables(tables, {NULL: 0.7, "a": 0.2, "b": 0.1})["alpha.w"]
    torch.testing.assert_close(got, torch.tensor([2.0]))
    algorithm, states, ancestors = setting()
    bare = State({n: t for n, t in states[NULL].learned.items() if n.startswith("trunk.")}, states[NULL].memory)
    weights = {NULL: 0.5, "m0": 0.5}
    got = step_sizes.mixed_state(algorithm.network, {**states, NULL: bare}, ancestors, weights)
    for name, tensor in got.learned.items():
        own = states["m0"].learned[name]
        if name.startswith("trunk."):
            torch.testing.assert_close(tensor, 0.5 * own + 0.5 * states[NULL].learned[name])
        else:
            assert torch.equal(tensor, own), name


def test_the_mixture_adapts_with_its_own_algorithm():
    algorithm, states, ancestors = setting()
    e = tasks.episode(generator(5), ways=3, shots=3, queries=5, dtype=torch.float64)
    got = step_sizes.mixed_state(algorithm.network, states, ancestors, {NULL: 0.4, "m0": 0.6})
    adapted = algorithm.adapt(got, Support(e.support_x, e.support_y, 3), Context())
    assert bool(torch.isfinite(algorithm.logits(got, adapted, e.query_x)).all())
    # the same weights for start and step sizes
    f = (
        algorithm.network,
        mixing.Family(
            mixing.trunk_of(algorithm.network, states[NULL], NULL),
            (mixing.trunk_of(algorithm.network, states["m0"], "m0", ancestors["m0"]),),
        ),
    )
    start = mixing.mixed(f[1], {NULL: 0.4, "m0": 0.6}).trunk
    assert all(torch.equal(t, got.learned[f"trunk.{n}"]) for n, t in start.parameters.items())
    name = "alpha.trunk.conv.weight"
    expected = 0.4 * states[NULL].learned[name] + 0.6 * states["m0"].learned[name]
    torch.testing.assert_close(got.learned[name], expected)


def test_the_order_of_the_library_does_not_matter():
    algorithm, states, ancestors = setting()
    weights = {"m0": 0.2, "m1": 0.5, NULL: 0.3}
    a = step_sizes.mixed_state(algorithm.network, states, ancestors, weights)
    turned = dict(reversed(states.items()))
    assert equal(a, step_sizes.mixed_state(algorithm.network, turned, ancestors, dict(reversed(weights.items()))))


def test_what_does_not_belong_together_is_refused():
    algorithm, states, ancestors = setting()
    with pytest.raises(WorkbenchError, match="numbered differently"):
        step_sizes.mixed_state(algorithm.network, states, {**ancestors, "m1": "another"}, {"m0": 0.5, "m1": 0.5})
    with pytest.raises(WorkbenchError, match="different methods"):
        step_sizes.mixed_tables({"a": {"alpha.w": normal(2)}, "b": {"rate.w": normal(2)}}, {"a": 0.5, "b": 0.5})
    with pytest.raises(WorkbenchError, match="numbers of steps"):
        step_sizes.mixed_tables({"a": {"rate.w": normal(5)}, "b": {"rate.w": normal(3)}}, {"a": 0.5, "b": 0.5})
    with pytest.raises(WorkbenchError, match="learnt any"):
        step_sizes.mixed_tables({"a": {}, "b": {"alpha.w": normal(2)}}, {"a": 1.0})


def test_tables_are_found_by_name():
    for key, prefix in (("meta-sgd", "alpha."), ("maml++", "rate."), ("protonet", None)):
        state = create(key, {}, Setting("tiny-smooth", 1, tasks.SIZE, ways=3)).init(generator(0))
        names = set(step_sizes.table(state))
        assert bool(names) == (prefix is not None)
        assert prefix is None or any(n.startswith(prefix) for n in names)
        assert not any(n.startswith(functional.TRUNK) for n in names)

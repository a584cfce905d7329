"""Transfer by a meta-learned optimiser: step sizes mixed by similarity, as the start is.

Meta-SGD learns a step size for every parameter (``alpha.*``) and MAML++ one for every layer and step (``rate.*``). Of
several entries of one family (see :mod:`workbench.transfer.mixing`) both the start and these tables can be mixed with
the same weights::

    theta = theta_0 + sum_s w_s (theta_s - theta_0),    alpha = sum_s w_s alpha_s

and the mixture is a state of the same algorithm, which adapts as always. From one ``theta``, one step with the mixed
table ends at the weighted mean of where the sources' tables would end, since a step is linear in its size.

The ancestor takes part in the tables only if it learnt one too; otherwise the sources' weights are divided by their
sum there. Signs are kept: a negative step size is a direction that was learnt. A textbook head has a row of step sizes
for each class; since classes are numbered at random in training, rows of different entries may be mixed.

To use it: ``step_sizes.mixed_state(network, {entry_id: state, NULL: ancestor_state}, marks, weights)`` with the weights
of ``mixing.mix``, and then the entries' own algorithm on the state that it gives.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from workbench.core.errors import WorkbenchError
from workbench.learn import averaging, functional
from workbench.learn.protocol import State, Tensors
from workbench.transfer import mixing
from workbench.transfer.mixing import NULL

TABLES = ("alpha.", "rate.", "offset.")
"""Prefixes of learned names that say how to step: Meta-SGD's, and MAML++'s rates and offsets per step."""


def table(state: State) -> Tensors:
    """A state's learnt step sizes by their names in the state; empty where the method learns none."""
    return {n: t for n, t in state.learned.items() if n.startswith(TABLES)}


def mixed_tables(tables: Mapping[str, Mapping[str, Tensor]], weights: Mapping[str, float]) -> Tensors:
    """``sum_s w_s alpha_s``, number by number; the weights are divided by the sum of those that have a table.

    Args:
        tables: by the entry's name; an empty one does not take part.
        weights: by name, not negative; names without a table, or tables without a weight, do not take part.

    Raises:
        WorkbenchError: nobody with a weight has a table, or tables of different methods, numbers of steps or shapes.
    """
    used = {n: tables[n] for n in sorted(tables) if tables[n] and weights.get(n, 0.0) > 0}
    if not used:
        raise _refused("none of those that resemble the task learnt any", "Train Meta-SGD or MAML++ on a source")
    shapes = [{n: t.shape for n, t in t_by_name.items()} for t_by_name in used.values()]
    if any(found != shapes[0] for found in shapes[1:]):
        raise _refused(
            "they are of different methods, numbers of steps or numbers of classes",
            "Mix entries that were trained with the same method and settings",
        )
    # one family is the caller's care here: tables alone do not say where they come from
    models = [averaging.Model(dict(t), "") for t in used.values()]
    return averaging.mean(models, [weights[n] for n in used])


def mixed_state(
    network: nn.Module, states: Mapping[str, State], ancestors: Mapping[str, str], weights: Mapping[str, float]
) -> State:
    """A state of the same algorithm: trunk, head's start, statistics and step sizes, mixed with one set of weights.

    Args:
        network: the backbone's skeleton.
        states: by the entry's name, :data:`~workbench.transfer.mixing.NULL` for the ancestor.
        ancestors: of each but ``NULL``, as in its provenance.
        weights: as ``mixing.mix`` gives them.

    Raises:
        WorkbenchError: the entries do not come from the ancestor, or their tables do not fit one another.
        KeyError: a state is missing.
    """
    first = mixing.trunk_of(network, states[NULL], NULL)
    members = tuple(
        mixing.trunk_of(network, s, n, ancestors[n]) for n, s in sorted(states.items()) if n in weights and n != NULL
    )
    trunk = mixing.mixed(mixing.Family(first, members), weights).trunk
    steps = mixed_tables({n: table(s) for n, s in states.items()}, weights)
    taking_part = {n: w for n, w in weights.items() if w > 0 and table(states[n])}
    names = sorted(taking_part)
    rest = [averaging.Model(_rest(states[n]), "") for n in names]
    others = averaging.mean(rest, [taking_part[n] for n in names])
    found = {**functional.named(trunk.tensors), **others, **steps}
    like = states[names[0]]
    return State({n: found[n] for n in like.learned}, {n: found[n] for n in like.memory})


def _rest(state: State) -> Tensors:
    """What is neither trunk nor table: the start of the head, and MAML++'s running averages of each step."""
    both = {**state.learned, **state.memory}
    return {n: t for n, t in both.items() if not n.startswith((*TABLES, functional.TRUNK))}


def _refused(why: str, what_to_do: str) -> WorkbenchError:
    return WorkbenchError("The step sizes were not mixed", why, what_to_do)

"""Represent the new task, rank the knowledge, adapt, predict: one call, re-run after every edit.

(The values stand here; the work is below them.)
"""

from __future__ import annotations

from dataclasses import dataclass

from workbench.core.values import Candidate, Estimate, ImageRef, Prediction, Problem, TaskClass

WAYS = ("similarity", "optimiser", "recipes")
"""Choices that say how, and not what: a mixture of networks, one of step sizes too, or no mixture."""


@dataclass(frozen=True, slots=True)
class TeachRequest:
    """Everything adapting and predicting need.

    Attributes:
        number: counts the edits; a result is applied only if it is still current.
        classes: with their examples (``TeachTask.support()``).
        queries: pictures to predict.
        choice: ``auto``, ``none``, an entry's id or one of ``WAYS``.
        seed: of stochastic methods.
        device: key.
    """

    number: int
    classes: tuple[TaskClass, ...]
    queries: tuple[ImageRef, ...]
    choice: str = "auto"
    seed: int = 0
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class MapPoint:
    """A task on the map: name, kind (``this``, ``source``), position in 0..1, similarity to the new task."""

    name: str
    kind: str
    x: float
    y: float
    similarity: float


@dataclass(frozen=True, slots=True)
class TeachResult:
    """What the Teach room shows.

    Attributes:
        number: of the request.
        key: digest of the request (classes, choice, knowledge), for caches.
        candidates: ranked knowledge, the branch "no transfer" included.
        reason: one sentence that says how the choice was made.
        estimate: accuracy from examples that were left out, with its 95 % interval, ``None`` at one example per class.
        step_names: names of the slider's positions; two for methods without inner steps.
        steps: per position, the predictions of all queries in the request's order.
        step_estimates: per position.
        gradient_based: whether the positions are inner steps.
        influence: per class and example, in order, how far the left-out log-loss of all examples falls without it, nats
            (``learn.influence``); larger is odder, below 0 are those that help, ``None`` where it cannot be left out.
        points: the task map.
        seconds: taken.
        problems: queries that could not be read (they have no prediction), and knowledge that could not be used.
        method: what a person must know of the chosen method, short sentences; none for most.
        caution: why the answers may be poor although nothing is wrong, a sentence, or "".
        together: whether the queries helped to adapt, so that each answer depends on all of them.
    """

    number: int
    key: str
    candidates: tuple[Candidate, ...]
    reason: str
    estimate: Estimate | None
    step_names: tuple[str, ...]
    steps: tuple[tuple[Prediction, ...], ...]
    step_estimates: tuple[Estimate | None, ...]
    gradient_based: bool
    influence: tuple[tuple[float | None, ...], ...]
    points: tuple[MapPoint, ...]
    seconds: float
    problems: tuple[Problem, ...] = ()
    method: tuple[str, ...] = ()
    caution: str = ""
    together: bool = False


def used_together(request: TeachRequest) -> tuple[ImageRef, ...]:
    """The queries that a transductive method may adapt with: all, where a person chose what is adapted, else none.

    Answers that depend on what else was asked are a person's decision, so the automatic choice never makes it.
    """
    return () if request.choice in {"auto", "none", *WAYS} else request.queries


def method_words(
    tags: frozenset[str], ways: int | None, *, exactly: bool = False, together: bool = True
) -> tuple[str, ...]:
    """What a person must know of a method, from its tags.

    Args:
        tags: of its ``AlgorithmInfo``.
        ways: most classes of its training episodes, ``None`` for an untrained network.
        exactly: its head has a row for each of those classes.
        together: whether the queries helped it to adapt, where they can.
    """
    words = []
    if exactly and ways is not None:
        words.append(f"It accepts exactly {ways} classes.")
    elif "any-way" not in tags and ways is not None:
        words.append(f"It accepts up to {ways} classes.")
    if "order-dependent" in tags:
        words.append("The order of the examples matters.")
    if "transductive" in tags and together:
        words.append("It looks at all queries together, so each answer depends on the others.")
    elif "transductive" in tags:
        words.append("Queries can help it, once there are some and it is chosen by hand; here it saw examples alone.")
    if "stochastic" in tags:
        words.append("It draws at random, in the same way each time.")
    return tuple(words)


def fixed_words(name: str, *, transductive: bool, used: int, given: int) -> str:
    """What a person must know of a written model that pictures without labels helped to make, or could have; or "".

    Args:
        name: of the knowledge.
        transductive: whether such pictures can help it.
        used: how many of them did.
        given: how many were offered.
    """
    if not transductive:
        return f"The {given} unlabelled pictures were not used: {name} learns from examples alone." if given else ""
    if used:
        told = f"{used} unlabelled picture{'s' if used > 1 else ''} helped to place the classes."
    else:
        told = f"{name} learnt from the examples alone, without the pictures that are to be predicted."
    return f"{told} The model is fixed now: it answers for each picture on its own."

"""What a method is and needs, in words: from the family and the tags of its ``AlgorithmInfo``. No Qt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from workbench.core.values import AlgorithmInfo

FAMILIES = (
    "optimisation",
    "metric",
    "memory",
    "parameter generation",
    "probabilistic",
    "data generation",
    "transfer baseline",
    "multi-task",
    "transductive",
    "learned structure",
)
"""In the order in which they are listed; a family that is not named here follows these."""

_WORDS: Mapping[str, str] = {
    "any-way": "Any number of classes",
    "gradient-based": "Takes gradient steps on a new task",
    "transductive": "Uses the queries together",
    "order-dependent": "Order of the examples matters",
    "stochastic": "Draws at random",
    "needs-pretrained": "Needs pretrained weights",
    "cacheable": "Quick to correct",
}
_ONLY_FOR_MACHINES = frozenset({"trains"})


def family_title(family: str) -> str:
    """For example "Parameter generation"."""
    return family[:1].upper() + family[1:]


def by_family(infos: Iterable[AlgorithmInfo]) -> dict[str, list[AlgorithmInfo]]:
    """Grouped by family; within one, by title."""
    found: dict[str, list[AlgorithmInfo]] = {}
    for info in sorted(infos, key=lambda i: i.title.casefold()):
        found.setdefault(info.family, []).append(info)
    order = {family: at for at, family in enumerate(FAMILIES)}
    return dict(sorted(found.items(), key=lambda item: (order.get(item[0], len(order)), item[0])))


def tag_words(tags: frozenset[str]) -> tuple[str, ...]:
    """What the tags say to a person, the number of classes first; a tag without words of its own is spelt out."""
    words = [] if "any-way" in tags else ["A limited number of classes"]
    words += [text for tag, text in _WORDS.items() if tag in tags]
    if "trains" not in tags:
        words.append("Nothing to train")
    return (*words, *(_spelt(tag) for tag in sorted(tags - set(_WORDS) - _ONLY_FOR_MACHINES)))


_NAMES: Mapping[str, str] = {"adam": "Adam", "sgd": "SGD", "pcgrad": "PCGrad", "fisher": "Fisher", "lstm": "LSTM"}


def choice_words(choice: str) -> str:
    """A choice of a hyperparameter as a form shows it: "prototype" is "Prototype", "CL2N" stays."""
    if not choice.islower():
        return choice
    return _NAMES.get(choice) or family_title(choice.replace("-", " ").replace("_", " "))


def _spelt(tag: str) -> str:
    return family_title(tag.replace("-", " "))


def matches(info: AlgorithmInfo, words: str) -> bool:
    """Whether every word is found in what is shown of a method, or in its key."""
    shown = (info.title, info.family, info.summary, info.paper, *tag_words(info.tags), info.key)
    text = " ".join(shown).casefold()
    return all(word in text for word in words.casefold().split())

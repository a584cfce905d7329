"""Hyperparameters as data: one dataclass per algorithm is the form, the ``--set`` option, the JSON, the help.

A ``Params`` dataclass declares each field with :func:`param`; :func:`fields_of` lists them for whoever draws a form,
and :func:`build_params` turns names and values (also text from the command line) into a checked instance.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

from workbench.core.errors import WorkbenchError

P = TypeVar("P")
Kind = Literal["int", "float", "bool", "choice"]

_KEY = "workbench.param"
_TRUE = {"true", "yes", "on", "1"}
_FALSE = {"false", "no", "off", "0"}


@dataclass(frozen=True, slots=True)
class FieldSpec:
    """One hyperparameter, as a form shows it.

    Attributes:
        name: the field's and the command line's name.
        title: the form's label.
        kind: ``int``, ``float``, ``bool`` or ``choice``.
        default: used when nothing is given.
        low: smallest allowed value, numbers only.
        high: largest allowed value, numbers only.
        step: what one click of a spin box changes, numbers only.
        choices: allowed values of a ``choice``, else empty.
        help: one or two sentences.
    """

    name: str
    title: str
    kind: Kind
    default: Any
    low: float | None
    high: float | None
    step: float | None
    choices: tuple[str, ...]
    help: str


@dataclass(frozen=True, slots=True)
class _Meta:
    low: float | None
    high: float | None
    step: float | None
    title: str | None
    choices: tuple[str, ...]
    help: str


def param(
    default: Any,
    *,
    low: float | None = None,
    high: float | None = None,
    step: float | None = None,
    help: str,  # noqa: A002 - the word the form and the command line use
    title: str | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """A dataclass field that knows its range; the default's type decides the kind.

    Raises:
        ValueError: a number without a range, a text without choices, or a default outside them.
    """
    kind = _kind(default)
    if kind in ("int", "float") and (low is None or high is None or not low <= default <= high):
        raise ValueError("a number needs a range that holds its default")
    if kind == "choice" and default not in choices:
        raise ValueError("a choice needs its choices, the default among them")
    return dataclasses.field(default=default, metadata={_KEY: _Meta(low, high, step, title, choices, help)})


def fields_of(params: type) -> tuple[FieldSpec, ...]:
    """The hyperparameters of a ``Params`` dataclass, in their order."""
    specs = []
    for f in dataclasses.fields(params):
        meta = f.metadata.get(_KEY)
        if meta is None:
            raise TypeError(f"{params.__qualname__}.{f.name} was not declared with param()")
        title = meta.title or f.name.replace("_", " ").capitalize()
        kind = _kind(f.default)
        specs.append(FieldSpec(f.name, title, kind, f.default, meta.low, meta.high, meta.step, meta.choices, meta.help))
    return tuple(specs)


def build_params(params: type[P], overrides: Mapping[str, Any]) -> P:
    """An instance with the defaults, changed by ``overrides``; texts are read as the command line gives them.

    Raises:
        WorkbenchError: an unknown name, a value of the wrong kind, or one outside its range.
    """
    specs = {spec.name: spec for spec in fields_of(params)}
    for name in overrides:
        if name not in specs:
            known = ", ".join(specs) if specs else "none: this algorithm has no hyperparameters"
            raise _refused(f"there is no hyperparameter called {name!r}", f"Choose among: {known}")
    return params(**{name: _checked(specs[name], value) for name, value in overrides.items()})


def parse_settings(texts: list[str] | tuple[str, ...]) -> dict[str, str]:
    """``NAME=VALUE`` texts of the command line as a mapping.

    Raises:
        WorkbenchError: a text without an equals sign or a name.
    """
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise _refused(f"{text!r} is not of the form NAME=VALUE", "Write for example inner_lr=0.1")
        found[name.strip()] = value.strip()
    return found


def values_of(params: Any) -> dict[str, Any]:
    """The hyperparameters of an instance by name, as JSON holds them."""
    return dataclasses.asdict(params)


def _kind(default: object) -> Kind:
    if isinstance(default, bool):
        return "bool"
    if isinstance(default, int):
        return "int"
    if isinstance(default, float):
        return "float"
    if isinstance(default, str):
        return "choice"
    raise ValueError(f"a hyperparameter cannot be a {type(default).__name__}")


def _checked(spec: FieldSpec, value: Any) -> Any:
    read = {"int": _int, "float": _float, "bool": _bool, "choice": str}[spec.kind]
    try:
        taken = cast("Any", read)(value)
    except (ValueError, TypeError, OverflowError):
        word = {"int": "a whole number", "float": "a number", "bool": "true or false", "choice": "a word"}[spec.kind]
        raise _refused(f"{spec.name} must be {word}, not {value!r}", _advice(spec)) from None
    outside = spec.low is not None and spec.high is not None and not spec.low <= taken <= spec.high
    if outside or (spec.choices and taken not in spec.choices):
        raise _refused(f"{spec.name} cannot be {value!r}", _advice(spec))
    return taken


def _refused(why: str, what_to_do: str) -> WorkbenchError:
    return WorkbenchError("The setting was not taken", why, what_to_do)


def _advice(spec: FieldSpec) -> str:
    if spec.choices:
        return f"Choose one of: {', '.join(spec.choices)}"
    if spec.kind == "bool":
        return "Choose true or false"
    return f"Choose a value from {spec.low:g} to {spec.high:g}"


def _int(value: Any) -> int:
    if isinstance(value, bool):
        raise TypeError("a truth value is not a number")
    if isinstance(value, float) and not value.is_integer():
        raise ValueError("not whole")
    return int(value)


def _float(value: Any) -> float:
    if isinstance(value, bool):
        raise TypeError("a truth value is not a number")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("not finite")
    return number


def _bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError("neither true nor false")

from dataclasses import dataclass, field

import pytest

from workbench.core.errors import WorkbenchError
from workbench.core.params import build_params, fields_of, param, parse_settings, values_of


@dataclass(frozen=True, slots=True)
class Params:
    lr: float = param(0.1, low=0.0, high=1.0, step=0.1, title="Learning rate", help="How far.")
    inner_steps: int = param(5, low=1, high=10, step=1, help="How often.")
    learn: bool = param(True, help="Whether.")
    head: str = param("a", choices=("a", "b"), help="Which.")


def test_the_fields_as_a_form_shows_them():
    specs = fields_of(Params)
    assert [s.name for s in specs] == ["lr", "inner_steps", "learn", "head"]
    assert [s.kind for s in specs] == ["float", "int", "bool", "choice"]
    assert [s.title for s in specs] == ["Learning rate", "Inner steps", "Learn", "Head"]
    assert (specs[0].low, specs[0].high, specs[0].step, specs[0].default) == (0.0, 1.0, 0.1, 0.1)
    assert specs[3].choices == ("a", "b")
    assert specs[3].help == "Which."


@pytest.mark.parametrize(
    ("name", "given", "taken"),
    [
        ("lr", "0.5", 0.5),
        ("lr", 1, 1.0),
        ("lr", "1e-3", 0.001),
        ("inner_steps", "7", 7),
        ("inner_steps", 7.0, 7),
        ("learn", "no", False),
        ("learn", "True", True),
        ("learn", False, False),
        ("head", "b", "b"),
    ],
)
def test_values_and_texts_are_taken(name, given, taken):
    found = getattr(build_params(Params, {name: given}), name)
    assert found == taken
    assert type(found) is type(taken)


def test_the_rest_keeps_its_default():
    assert values_of(build_params(Params, {"lr": 0.5})) == {"lr": 0.5, "inner_steps": 5, "learn": True, "head": "a"}


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("nonsense", 1, "inner_steps"),
        ("lr", "much", "a number"),
        ("lr", 2.0, "from 0 to 1"),
        ("lr", float("nan"), "a number"),
        ("lr", "inf", "a number"),
        ("lr", True, "a number"),
        ("inner_steps", 0, "from 1 to 10"),
        ("inner_steps", 2.5, "a whole number"),
        ("inner_steps", "2.5", "a whole number"),
        ("inner_steps", True, "a whole number"),
        ("learn", "maybe", "true or false"),
        ("head", "c", "a, b"),
        ("lr", None, "a number"),
    ],
)
def test_the_rest_is_refused(name, given, words):
    with pytest.raises(WorkbenchError, match=words):
        build_params(Params, {name: given})


def test_settings_of_the_command_line():
    assert parse_settings(["lr=0.1", " head = b ", "x=a=b"]) == {"lr": "0.1", "head": "b", "x": "a=b"}
    for text in ("lr", "=1"):
        with pytest.raises(WorkbenchError, match="NAME=VALUE"):
            parse_settings([text])


def test_a_field_must_be_declared_well():
    for wrong in (
        lambda: param(0.5, help=""),
        lambda: param(5, low=6, high=7, help=""),
        lambda: param("a", help=""),
        lambda: param("a", choices=("b",), help=""),
        lambda: param(None, help=""),
    ):
        with pytest.raises(ValueError, match=r"needs|cannot"):
            wrong()

    @dataclass
    class Plain:
        x: int = field(default=1)

    with pytest.raises(TypeError, match=r"Plain\.x"):
        fields_of(Plain)

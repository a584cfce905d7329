from __future__ import annotations

from dataclasses import replace

from workbench.export.card import LICENCE_PLACEHOLDER, five_lines, model_card


def test_the_card_says_what_is_known(manifest) -> None:
    card = model_card(manifest, "x.onnx")
    front, body = card.split("---\n")[1:3]
    assert 'license: "CC0"' in front
    assert "90.0% (95 % interval 70.0% to 97.0%)" in body
    assert "| hat | 2 |" in body
    assert five_lines("x.onnx") in body
    assert "`protonet`" in body


def test_what_is_not_known_is_not_made_up(manifest) -> None:
    card = model_card(replace(manifest, estimate=None, provenance={}))
    assert "cannot be estimated" in card
    assert "%" not in card.split("## Figures")[1]
    assert LICENCE_PLACEHOLDER in card


def test_names_of_others_are_not_markup(manifest) -> None:
    card = model_card(replace(manifest, name="a\n# <script> | [x](y)", classes=("|", "b", "<img>")))
    assert "# a \\# \\<script\\> \\| \\[x\\](y)" in card
    assert "| \\| | 2 |" in card
    assert "<img>" not in card

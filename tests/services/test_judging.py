"""What the examples say of the chosen knowledge: asked a class each at a time, the choice made again, influence."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from tests.services.test_teaching import id_of, pictures_of, shots
from workbench.core.context import Context
from workbench.learn import calibrate
from workbench.learn.protocol import Support
from workbench.services import answers, knowledge, teaching
from workbench.services.teach import TeachRequest
from workbench.transfer.represent import represent, similarity


def taught(classes, project, choice):
    return teaching.adapt_to(classes, project, choice, knowledge.feature_cache(), Context(), every_step=False)


@pytest.mark.parametrize("name", ["proto", "ridge"])
def test_examples_are_left_out_one_of_every_class_at_a_time(trained, classes, name) -> None:
    seen = taught(classes, trained, id_of(trained, name)).seen
    k, f, y = seen.knowledge, seen.support.features, seen.support.y
    assert f is not None
    assert sorted(seen.left_out.rows.tolist()) == list(range(12))
    for row, logits in zip(seen.left_out.rows.tolist(), seen.left_out.logits, strict=True):
        gone = [4 * c + row % 4 for c in range(3)]
        rest = torch.tensor([i not in gone for i in range(12)])
        adapted = k.algorithm.adapt(k.state, Support(f[rest], y[rest], 3, f[rest]), Context())
        wanted = k.algorithm.head(k.state, adapted)(f[row : row + 1])[0]
        assert torch.allclose(logits, wanted, atol=1e-4)


def test_a_picture_of_another_class_has_the_largest_influence(trained, classes, queries) -> None:
    stranger = queries[0].images[0]
    mixed = (classes[0], type(classes[1])("mixed", (*classes[1].images, stranger)), classes[2])
    for name in ("proto", "ridge"):
        request = TeachRequest(1, mixed, (), id_of(trained, name))
        found = teaching.teach(request, trained, Context()).influence
        assert max(v for row in found for v in row) == found[1][-1]


def test_predicting_with_the_written_model_says_none_of_these_as_teach_does(
    trained, classes, queries, tmp_path, capsys
) -> None:
    from workbench.__main__ import main

    folder = tmp_path / "task"
    for c in classes:
        (folder / c.name).mkdir(parents=True)
        for image in c.images:
            (folder / c.name / image.name).write_bytes(Path(image.path).read_bytes())
    asked = pictures_of(queries)
    shown = teaching.teach(TeachRequest(1, classes, asked, id_of(trained, "proto")), trained, Context()).steps[-1]
    model, project = str(tmp_path / "model"), ["--project", str(trained), "--json"]
    assert main(["adapt", id_of(trained, "proto"), str(folder), "--out", model, *project]) == 0
    capsys.readouterr()
    assert main(["predict", model, *(i.path for i in asked), *project]) == 0
    said = {p["image"]: p for p in json.loads(capsys.readouterr().out)["predictions"]}
    for p in shown:
        other = said[p.image.path]
        assert other["rejected"] == p.rejected
        assert other["none_of_these"] == pytest.approx(p.none, abs=1e-5)


def expected_of(seen, count: int) -> float:
    """The knowledge's own temperature; of one example a class that of a task so like its nearest source."""
    task, own = represent(seen.embedding), seen.knowledge.figures["temperature"]
    likeness = max(similarity(task, source) for _, source in seen.knowledge.sources)
    assert likeness < 0.99, "it is not its own source"
    return own * math.exp((1 - likeness) ** 2) if count == 1 else own


@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_temperature_is_the_one_of_the_tasks_number_of_examples(trained, classes, count) -> None:
    found = taught(shots(classes, count, count, count), trained, id_of(trained, "proto"))
    seen, net = found.seen, found.networks[-1][1]
    y, typical = seen.support.y, expected_of(seen, count)
    fitted = calibrate.task_temperatures(seen.left_out, y, 3, typical, count)
    assert float(net.temperature) == pytest.approx(fitted.answers)
    typical_scatter = 1 + 137 / 300
    if count == 1:
        assert fitted.answers == pytest.approx(typical * 2 / typical_scatter)
    else:
        start = typical * (1 + 1 / (count - 1)) / typical_scatter
        left_out = calibrate.fit_temperature(seen.left_out.logits, y[seen.left_out.rows], start)
        assert fitted.answers == pytest.approx(left_out * (1 + 1 / count) / (1 + 1 / (count - 1)))
        losses = F.cross_entropy(seen.left_out.logits / left_out, y[seen.left_out.rows], reduction="none")
        assert torch.allclose(seen.losses, losses, atol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_ridges_temperature_is_not_changed_for_the_number_of_examples(trained, classes, count) -> None:
    seen = taught(shots(classes, count, count, count), trained, id_of(trained, "ridge")).seen
    y, typical = seen.support.y, expected_of(seen, count)
    logits = seen.left_out.logits
    expected = typical if count == 1 else calibrate.fit_temperature(logits, y[seen.left_out.rows], typical)
    assert seen.temperature == pytest.approx(expected)


@pytest.mark.parametrize("likeness", [0.0, 0.5, 1.0])
def test_none_of_these_asks_how_much_the_task_resembles_the_sources(trained, classes, likeness) -> None:
    """One example a class: nothing else says whether distances mean here what they meant there."""
    found = taught(shots(classes, 1, 1, 1), trained, id_of(trained, "proto"))
    seen = replace(found.seen, similarities=(("a", likeness), ("b", 0.0)), most=1.0)
    net, embedding = answers.network(seen, found.adapted, ["a", "b", "c"])
    wanted = calibrate.reject_threshold(embedding, seen.support.y, 3, seen.knowledge.figures, likeness)
    assert (float(net.threshold), float(net.width)) == pytest.approx(wanted)
    if likeness == 0.0:
        _, probabilities, _ = net.from_embedding(embedding + 3 * float(embedding.std()))
        assert torch.all((probabilities[:, -1] > 0.03) & (probabilities[:, -1] < 0.2)), "it does not know"

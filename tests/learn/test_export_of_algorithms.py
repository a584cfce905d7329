"""What every algorithm deploys can be exported: one ONNX graph that answers as torch does, alone and in a batch."""

import pytest
import torch

from tests.learn import conformance, tasks
from workbench.core.context import Context
from workbench.core.values import Preprocess
from workbench.export.onnx import to_onnx
from workbench.learn.answer import Answering
from workbench.learn.calibrate import prototypes
from workbench.learn.protocol import generator
from workbench.learn.registry import algorithms

PLAIN = Preprocess(tasks.SIZE, "grey", mean=(0.5,), std=(0.25,))
CASES = [conformance.cases(key)[0] for key in algorithms()]


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_the_exported_graph_answers_as_torch_does(case):
    ort = pytest.importorskip("onnxruntime")
    algorithm, state = case.algorithm, case.fresh
    e = tasks.episode(generator(4), shots=(1, 3, 2, 1, 2))
    deployed = algorithm.deploy(state, algorithm.adapt(state, conformance.support_of(e), Context()))
    centres = prototypes(deployed.trunk(e.support_x), e.support_y, e.ways)
    network = Answering(deployed, PLAIN.mean, PLAIN.std, 1.3, centres, 2.0, 0.2)
    graph = to_onnx(network, PLAIN, tuple("abcde"))
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    image = torch.rand(25, 1, tasks.SIZE, tasks.SIZE, generator=generator(5))
    for n in (1, 25):
        found = [torch.from_numpy(t) for t in session.run(None, {"image": image[:n].numpy()})]
        expected = network(image)
        for got, want in zip(found, expected, strict=True):
            conformance.close(got, want[:n], 1e-4)
        assert torch.equal(found[0].argmax(1), expected[0][:n].argmax(1))

"""What every algorithm deploys can be exported: one ONNX graph that answers as torch does, alone and in a batch."""

import pytest
import torch
from torch import nn

from tests.learn import cases, tasks
from workbench.core.context import Context
from workbench.core.values import Preprocess
from workbench.export.onnx import to_onnx
from workbench.learn.algorithms.protonet import ProtoNet
from workbench.learn.answer import Answering
from workbench.learn.calibrate import prototypes
from workbench.learn.protocol import generator
from workbench.learn.registry import algorithms

PLAIN = Preprocess(tasks.SIZE, "grey", mean=(0.5,), std=(0.25,))
CASES = [cases.of(key)[0] for key in algorithms()]


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def exported_graph_answers_as_torch_does(case):
    ort = pytest.importorskip("onnxruntime")
    algorithm, state = case.algorithm, case.fresh
    e = tasks.episode(generator(4), shots=(1, 3, 2, 1, 2))
    deployed = algorithm.deploy(state, algorithm.adapt(state, cases.support_of(e), Context()))
    centres = prototypes(deployed.trunk(e.support_x), e.support_y, e.ways)
    network = Answering(deployed, PLAIN.mean, PLAIN.std, 1.3, centres, 2.0, 0.2)
    graph = to_onnx(network, PLAIN, tuple("abcde"))
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    image = torch.rand(25, 1, tasks.SIZE, tasks.SIZE, generator=generator(5))
    for n in (1, 25):
        found = [torch.from_numpy(t) for t in session.run(None, {"image": image[:n].numpy()})]
        expected = network(image)
        for got, want in zip(found, expected, strict=True):
            cases.close(got, want[:n], 1e-4)
        assert torch.equal(found[0].argmax(1), expected[0][:n].argmax(1))


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_the_exported_graph_answers_as_torch_does(case):
    exported_graph_answers_as_torch_does(case)


class SeesTheBatch(nn.Module):
    """Features less their mean over the pictures that are asked about together."""

    def __init__(self, trunk):
        super().__init__()
        self.trunk = trunk

    def forward(self, x):
        f = self.trunk(x)
        return f - f.mean(0)


class AnotherWhenExported(nn.Module):
    """As where a branch of Python is taken while the graph is made, and another one in use."""

    def __init__(self, trunk):
        super().__init__()
        self.trunk = trunk

    def forward(self, x):
        f = self.trunk(x)
        if torch.compiler.is_exporting():
            return f * 1.01
        return f


@pytest.mark.parametrize("trunk", [SeesTheBatch, AnotherWhenExported])
def test_a_graph_that_answers_otherwise_is_noticed(trunk):
    class Mistaken(ProtoNet):
        def deploy(self, s, a):
            deployed = super().deploy(s, a)
            deployed.trunk = trunk(deployed.trunk)
            return deployed

    make = cases.of("protonet")[0].make
    with pytest.raises(AssertionError):
        exported_graph_answers_as_torch_does(
            cases.Case("mistaken", lambda ways: Mistaken(make(ways).p, make(ways).setting))
        )

import sys
import textwrap

import pytest

from workbench.core.errors import WorkbenchError
from workbench.learn import registry
from workbench.learn.algorithms.protonet import ProtoNet
from workbench.learn.protocol import Algorithm, Setting

SETTING = Setting("conv4", 1, 28)


def test_what_there_is():
    assert {"protonet", "maml", "fomaml", "reptile", "ridge"} <= registry.algorithms().keys()
    assert {"conv4", "conv4-32", "resnet12", "resnet18"} <= registry.backbones().keys()
    for key, algorithm in registry.algorithms().items():
        assert algorithm.info.key == key
        assert algorithm.info.tags <= registry.TAGS
        assert algorithm.info.summary.endswith(".")


def test_every_algorithm_has_the_protocols_methods():
    wanted = [n for n in vars(Algorithm) if not n.startswith("_") and callable(getattr(Algorithm, n))]
    for algorithm in registry.algorithms().values():
        assert all(callable(getattr(algorithm, n)) for n in wanted)


def test_creating_binds_parameters_and_setting():
    algorithm = registry.create("protonet", {"lr": "0.01"}, SETTING)
    assert isinstance(algorithm, ProtoNet)
    assert algorithm.p.lr == 0.01
    assert algorithm.setting is SETTING


@pytest.mark.parametrize(
    ("key", "params", "setting", "words"),
    [
        ("nonsense", {}, SETTING, "maml"),
        ("protonet", {"nonsense": 1}, SETTING, "scale"),
        ("protonet", {}, Setting("nonsense", 1, 28), "resnet12"),
        ("protonet", {}, Setting("conv4", 1, 8), "16 pixels"),
    ],
)
def test_what_is_not_there_is_refused_and_names_what_is(key, params, setting, words):
    with pytest.raises(WorkbenchError, match=words):
        registry.create(key, params, setting)


FILE = textwrap.dedent(
    '''
    """An algorithm in a file of its own."""
    from workbench.core.values import AlgorithmInfo
    from workbench.learn import registry
    from workbench.learn.algorithms.protonet import ProtoNet

    @registry.register
    class Extra(ProtoNet):
        """The same under another name."""
        info = AlgorithmInfo("extra", "Extra", "metric", "none", "Nothing.", frozenset({TAGS}))
    '''
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    from workbench.learn import algorithms

    monkeypatch.setattr(algorithms, "__path__", [*algorithms.__path__, str(tmp_path)])
    monkeypatch.setattr(registry, "_algorithms", dict(registry.algorithms()))
    yield tmp_path
    sys.modules.pop("workbench.learn.algorithms.extra", None)


def test_a_file_is_all_that_an_algorithm_needs(folder):
    assert "extra" not in registry.algorithms()
    (folder / "extra.py").write_text(FILE.replace("TAGS", '"trains"'))
    assert registry.algorithms()["extra"].info.title == "Extra"
    assert registry.create("extra", {}, SETTING).info.key == "extra"


def test_an_unknown_tag_is_a_mistake(folder):
    (folder / "extra.py").write_text(FILE.replace("TAGS", '"tranis"'))
    with pytest.raises(ValueError, match="tranis"):
        registry.algorithms()


def test_a_key_is_taken_once():
    class Other(ProtoNet):
        pass

    with pytest.raises(ValueError, match="protonet"):
        registry.register(Other)
    conv4 = registry.backbone("conv4")
    with pytest.raises(ValueError, match="conv4"):
        registry.register_backbone(
            "conv4", title="", input="", min_size=8, recommended_size=8, embedding_size=conv4.embedding_size
        )(conv4.structure)

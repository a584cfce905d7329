import numpy as np
import pytest
import torch

from workbench.core import storage
from workbench.core.errors import StorageError
from workbench.learn.checkpoint import Best, Position, Run, load_checkpoint, save_checkpoint, state_digest
from workbench.learn.optimiser import Moments
from workbench.learn.protocol import State, generator


def run(step, best=True):
    gen = generator(step)
    w = torch.randn(3, 4, generator=gen)
    state = State({"trunk.w": w, "b": torch.tensor(1.5)}, {"n": torch.tensor([step]), "empty": torch.zeros(0)})
    at = Position(
        1, step, 2 * step, 1.5, step, 0.5, step, 1, {"trunk.w": 7}, Best(0.5, 0.1, 20, step) if best else None
    )
    moments = Moments({"trunk.w": w + 1}, {"trunk.w": w + 2}, {"trunk.w": 7})
    # the best state shares its tensors with the current one, as it does right after a validation
    return Run(at, state, moments, gen, state if best else None, "asked")


def digest(r):
    moments = State(r.moments.first, r.moments.second)
    best = "" if r.best is None else state_digest(r.best)
    return (
        repr(r.at),
        state_digest(r.state),
        state_digest(moments),
        best,
        r.asked,
        r.gen.get_state().numpy().tobytes(),
    )


@pytest.mark.parametrize("best", [False, True])
def test_comes_back_as_it_was(tmp_path, best):
    made = run(3, best)
    save_checkpoint(tmp_path, made)
    found, note = load_checkpoint(tmp_path)
    assert note == ""
    assert digest(found) == digest(made)
    assert found.moments.steps == {"trunk.w": 7}
    assert torch.equal(torch.randn(5, generator=found.gen), torch.randn(5, generator=made.gen))


def test_none_yet(tmp_path):
    assert load_checkpoint(tmp_path / "missing") == (None, "")


def test_the_two_newest_are_kept(tmp_path):
    for step in (9, 10, 11, 11):
        save_checkpoint(tmp_path, run(step))
    assert sorted(p.name for p in tmp_path.glob("*.json")) == ["step-10.json", "step-11.json"]
    assert len(list(tmp_path.iterdir())) == 4
    assert load_checkpoint(tmp_path)[0].at.step == 11


def test_every_flipped_bit_is_noticed(tmp_path):
    save_checkpoint(tmp_path, run(1))
    save_checkpoint(tmp_path, run(2))
    good = {digest(load_checkpoint(tmp_path)[0])}
    older = digest(run(1))
    gen = np.random.default_rng(0)
    passed_over = 0
    for path in (tmp_path / "step-2.json", next(tmp_path.glob("step-2-*.safetensors"))):
        data = path.read_bytes()
        for _ in range(300):
            broken = bytearray(data)
            broken[int(gen.integers(len(data)))] ^= 1 << int(gen.integers(8))
            path.write_bytes(broken)
            found, note = load_checkpoint(tmp_path)
            assert digest(found) in good if note == "" else digest(found) == older
            passed_over += note != ""
        path.write_bytes(data[: len(data) // 2])
        assert digest(load_checkpoint(tmp_path)[0]) == older
        path.write_bytes(data)
    assert passed_over > 500


class Broken(storage.Ops):
    """Fails at the n-th file operation."""

    def __init__(self, at):
        self.left = at
        self.stuck = False

    def __getattribute__(self, name):
        found = super().__getattribute__(name)
        if name not in {"open", "write", "fsync", "close", "link", "replace", "fsync_dir"}:
            return found

        def counted(*args):
            self.left -= 1
            if self.left < 0 and name != "close":
                raise OSError(28, "No space left on device")
            return found(*args)

        return counted


def test_a_fault_at_any_operation_leaves_a_good_one(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, run(1))
    failed = 0
    for at in range(40):
        monkeypatch.setattr(storage, "ops", Broken(at))
        try:
            save_checkpoint(tmp_path, run(2))
        except StorageError as error:
            assert "No space left" in str(error)  # noqa: PT017
            failed += 1
        else:
            break
        finally:
            monkeypatch.undo()
        found, note = load_checkpoint(tmp_path)
        assert note == ""
        assert digest(found) in (digest(run(1)), digest(run(2)))
    assert failed >= 8
    assert digest(load_checkpoint(tmp_path)[0]) == digest(run(2))
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_newer_format_is_refused_and_left(tmp_path):
    save_checkpoint(tmp_path, run(1))
    card = tmp_path / "step-1.json"
    card.write_bytes(card.read_bytes().replace(b'"version": 1', b'"version": 9'))
    with pytest.raises(StorageError, match="newer version"):
        load_checkpoint(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_digest_tells_one_bit():
    state = run(1).state
    nudged = {**state.learned, "b": torch.nextafter(state.learned["b"], torch.tensor(9.0))}
    assert state_digest(state) == state_digest(State(dict(reversed(state.learned.items())), state.memory))
    assert state_digest(state) != state_digest(State(nudged, state.memory))
    assert state_digest(state) != state_digest(State(state.memory, state.learned))

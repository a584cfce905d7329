"""Trains the toy in a child process that is killed at random points: ``python -m tests.learn.trainee FOLDER KILLS``.

Prints the digest of an uninterrupted run, that of the killed and resumed one, and how often a kill struck.
Torch is imported once; each attempt is a fork.
"""

import os
import random  # noqa: TID251 - when to kill, not what to learn
import signal
import sys
import time
from pathlib import Path

from tests.learn.data import sampler, source
from tests.learn.toy import ToyProto
from workbench.core.context import Context
from workbench.learn.checkpoint import state_digest
from workbench.learn.engine import Plan, train

STEPS, EVERY = 300, 20


class Slow(ToyProto):
    def step(self, *args):
        time.sleep(0.001)
        return super().step(*args)


def run(folder):
    plan = Plan(episodes=STEPS, seed=5, checkpoint_every_steps=EVERY, gallery_every_seconds=None, report_episodes=20)
    outcome = train(Slow(), sampler(source("a")), sampler(source("v", seed=1)), plan, Context(), folder)
    return f"{state_digest(outcome.state)} {outcome.validation}"


def attempt(folder, after):
    """Whether it was killed."""
    child = os.fork()
    if child == 0:
        (folder / "result").write_text(run(folder))
        os._exit(0)
    if after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def main():
    root, kills = Path(sys.argv[1]), int(sys.argv[2])
    whole, broken = root / "whole", root / "broken"
    whole.mkdir()
    broken.mkdir()
    begun = time.monotonic()
    assert not attempt(whole, None)
    took = time.monotonic() - begun
    when, struck = random.Random(7), 0
    for _ in range(kills):
        struck += attempt(broken, when.uniform(0, took / 3))
    assert not attempt(broken, None)
    print((whole / "result").read_text())
    print((broken / "result").read_text())
    print(struck)
    metrics = [p.joinpath("metrics.jsonl").read_text().splitlines() for p in (whole, broken)]
    print([len(m) for m in metrics])


main()

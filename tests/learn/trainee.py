"""Trains the toy in a child process that is killed at random points: ``python -m tests.learn.trainee FOLDER KILLS``.

Runs are killed and resumed until they end; then the next begins, until so many kills have struck. Prints, a line each:
the result of an uninterrupted run, how many killed runs ended, how many of these with another result or other numbers
in their log, and the most steps that a kill undid. Torch is imported once; each attempt is a fork.
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
from workbench.learn.checkpoint import load_checkpoint, state_digest
from workbench.learn.engine import Plan, train
from workbench.learn.runlog import RunLog

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


def lines(folder):
    return [(m.name, m.step, m.value) for m in RunLog(folder, Context(), STEPS).history]


def main():
    root, kills = Path(sys.argv[1]), int(sys.argv[2])
    begun = time.monotonic()
    whole = root / "whole"
    whole.mkdir()
    assert not attempt(whole, None)
    took = time.monotonic() - begun
    result, log = (whole / "result").read_text(), lines(whole)
    when, struck, ended, other, lost = random.Random(7), 0, 0, 0, 0
    while struck < kills:
        folder = root / str(ended)
        folder.mkdir()
        while attempt(folder, when.uniform(0, 0.6 * took) if struck < kills else None):
            struck += 1
            done = max((step for name, step, _ in lines(folder) if name == "train/loss"), default=0)
            kept, _ = load_checkpoint(folder)
            lost = max(lost, done - (0 if kept is None else kept.at.step))
        ended += 1
        other += (folder / "result").read_text() != result or lines(folder) != log
    print(result, ended, other, lost, sep="\n")


main()

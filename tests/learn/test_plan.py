import pytest

from workbench.learn.plan import Plan


@pytest.mark.parametrize(
    ("episodes", "tested", "every", "reported"),
    [(1, 20, 1, 60), (300, 20, 100, 60), (2000, 20, 100, 200), (20000, 100, 1000, 600)],
)
def test_validation_costs_a_part_of_the_training(episodes, tested, every, reported):
    p = Plan(episodes=episodes)
    assert (p.tested, p.every, p.reported) == (tested, every, reported)
    if episodes >= 1000:
        assert p.tested * episodes / p.every + p.reported <= 0.3 * episodes


def test_what_is_asked_for_is_done():
    p = Plan(episodes=1000, validation_episodes=7, validate_every=0.5, report_episodes=9)
    assert (p.tested, p.every, p.reported) == (7, 500, 9)
    p = Plan(minutes=2.0)
    assert (p.seconds, p.tested, p.reported) == (120.0, 100, 600)

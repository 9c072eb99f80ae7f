"""The text of a starter recipe: what it offers holds for every task."""

from modelwright.core.recipe_tasks import QUALITY_OF, STEPS_OF_TASK
from modelwright.core.starter import GOALS, STARTER


def test_no_step_of_some_tasks_is_offered_to_all():
    """A text is not flipped; whoever takes a comment's mark away has a recipe that reads."""
    steps = {step for own in STEPS_OF_TASK.values() for step in own}
    (line,) = [line for line in STARTER.splitlines() if "augment" in line]

    assert not {step for step in steps if step in line}
    assert line.lstrip(" #").startswith("augment: []")


def test_every_measure_has_a_goal_to_start_from():
    """Whichever task a dataset is taken for."""
    assert {measures[0] for measures in QUALITY_OF.values()} <= set(GOALS)

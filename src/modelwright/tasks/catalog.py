"""TASKS: what a model is for. To add one: write a file, add a row."""

from types import ModuleType

from modelwright.tasks import classify

TASKS: dict[str, ModuleType] = {"image-classification": classify}

"""Modelwright: from a dataset and goals to a small, fast, proven model.

The verbs of the command line are functions here: `modelwright.run("recipe.yaml")`.
"""

__version__ = "0.1.0"

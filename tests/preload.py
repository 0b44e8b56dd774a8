"""All that the programs import, imported once: by the server that `tests.programs` forks from."""

import importlib
import pkgutil

import matplotlib.figure  # noqa: F401
import sklearn.datasets
import sklearn.linear_model
import sklearn.manifold
import sklearn.model_selection  # noqa: F401
import torch

import cl
import main_contrastive
import main_linear
from cl import cli

__all__ = ["PROGRAMS", "cli", "torch"]

PROGRAMS = {"main_contrastive.py": main_contrastive.main, "main_linear.py": main_linear.main}

for module in pkgutil.walk_packages(cl.__path__, "cl."):
    importlib.import_module(module.name)

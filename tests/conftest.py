"""Shapes and dtypes in the signatures of the equations are checked at run time in every test."""

from __future__ import annotations

from jaxtyping import install_import_hook

EQUATIONS = (
    "policies.exact.softmax",
    "policies.exact.solver",
    "policies.neural.advantages",
    "policies.neural.natural_gradient",
    "meta.estimators.closed_form",
    "meta.estimators.estimation",
    "meta.learning.updates",
    "meta.learning.bounds",
)
"""Modules of equations, whose signatures carry shapes."""

install_import_hook(EQUATIONS, "beartype.beartype")

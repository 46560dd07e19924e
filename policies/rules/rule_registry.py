"""The registry of within-task rules: a built-in name or a class of the user's, with its own settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from policies.rules.c_trpo import CTRPO
from policies.rules.cpo import CPO
from policies.rules.npg_primal_dual import NPGPrimalDual
from policies.rules.outside import class_outside, solver_of
from policies.rules.p3o import P3O
from policies.rules.pcrpo import PCRPO
from policies.rules.ppo_lagrangian import PPOLagrangian
from policies.rules.rule import Rule, RuleSettings
from policies.rules.switching import CRPO
from tasks.contract.family_registry import FamilyError, loaded_class
from tasks.contract.timeout import code_of_others

RULES: Mapping[str, type[RuleSettings]] = {
    "crpo": CRPO,
    "npg_primal_dual": NPGPrimalDual,
    "cpo": CPO,
    "ppo_lagrangian": PPOLagrangian,
    "p3o": P3O,
    "c_trpo": CTRPO,
    "pcrpo": PCRPO,
}
"""One line for each built-in rule."""
_KEY = "within_task.method"


class MethodSettings(BaseModel):
    """The rule by which a task is solved: the ``within_task.method`` section. Its settings are keys of the section."""

    model_config = ConfigDict(frozen=True, extra="allow", use_attribute_docstrings=True)

    name: str = "crpo"
    """A rule of algorithms.md, a class as package.module:Class or path/to/file.py:Class, or rllib:CLASS (rllib.md)."""

    @property
    def built_in(self) -> bool:
        """Whether making it runs no code of the user's."""
        return self.name in RULES or ":" not in (class_outside(self.name) or ":")

    @property
    def outside(self) -> bool:
        """Whether it solves whole tasks outside of this room, and is no rule (:mod:`policies.rules.outside`)."""
        return class_outside(self.name) is not None

    @property
    def num_cpus(self) -> int:
        """CPUs of a worker and of the processes that it starts to solve a task."""
        return solver_of(self.name).num_cpus(self) if self.outside else 1

    @property
    def code(self) -> str:
        """The class that it names, or the name of a built-in rule."""
        return class_outside(self.name) or self.name

    @property
    def parameters(self) -> dict[str, Any]:
        """The rule's own settings."""
        return dict(self.model_extra or {})

    @model_validator(mode="after")
    def _known_settings(self) -> MethodSettings:
        if self.name in RULES:
            self.make()
        elif ":" not in self.name:
            raise ValueError(
                f"no method is called {self.name!r}; known: {', '.join(RULES)}, or give package.module:Class or "
                "path/to/file.py:Class"
            )
        return self

    def make(self) -> Rule:
        """The rule, which runs the user's code where the class is the user's.

        Raises:
            ValueError: there is no such class, it rejects a setting, it lacks a part of :class:`Rule`, or it solves
                whole tasks instead.
        """
        if self.outside:
            raise ValueError(f"{_KEY}.name: {self.name} solves whole tasks; single steps need a rule, such as crpo")
        if self.name in RULES:
            return _built_in(self.name, self.parameters)
        return _own(self.name, self.parameters)


def without_default_method(settings: BaseModel, dump: Callable[[BaseModel], dict[str, Any]]) -> dict[str, Any]:
    """``settings`` as plain data, without the key ``method`` where it is plain CRPO.

    Files and digests of runs from before there were other methods stay valid.
    """
    plain = dump(settings)
    if getattr(settings, "method", None) == CRPO_METHOD:
        plain.pop("method", None)
    return plain


def _built_in(name: str, parameters: dict[str, Any]) -> Rule:
    try:
        made: Any = RULES[name](**parameters)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        allowed = ", ".join(RULES[name].model_fields) or "none"
        detail = f"{name} has no such setting (allowed: {allowed})" if first["type"] == "extra_forbidden" else None
        raise ValueError(f"{key}: {detail or first['msg']}; given: {first['input']!r}") from error
    rule: Rule = made
    return rule


def _own(name: str, parameters: dict[str, Any]) -> Rule:
    try:
        kind = loaded_class(name)
    except FamilyError as error:
        raise ValueError(f"{_KEY}.{error.field}: {error.message}") from error
    try:
        with code_of_others(lambda: name):
            made: Rule = kind(**parameters)
    except Exception as error:
        raise ValueError(f"{_KEY}: {name} could not be made: {type(error).__name__}: {error}") from error
    missing = [part for part in ("first", "decide") if not callable(getattr(made, part, None))]
    if missing:
        raise ValueError(f"{_KEY}.name: {name} lacks {', '.join(missing)}; see policies.rules.rule.Rule")
    return made


CRPO_METHOD = MethodSettings()
"""The default."""

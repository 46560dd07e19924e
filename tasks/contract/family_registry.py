"""The registry of families: find a family by name or by where its class is defined, and make it."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import reprlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium
import pydantic

from tasks.contract.contextual_family import Contexts, ContextualFamily
from tasks.contract.task import TaskFamily
from tasks.contract.timeout import code_of_others

BUILT_IN = {
    "frozen_lake": "tasks.lakes.frozen_lake:FrozenLake",
    "acrobot": "tasks.classic_control.acrobot:Acrobot",
    "half_cheetah": "tasks.mujoco.locomotion:HalfCheetah",
    "hopper": "tasks.mujoco.locomotion:Hopper",
    "swimmer": "tasks.mujoco.locomotion:Swimmer",
    "walker2d": "tasks.mujoco.locomotion:Walker2d",
    "ant": "tasks.mujoco.locomotion:Ant",
    "humanoid": "tasks.mujoco.locomotion:Humanoid",
    "safety_gymnasium": "tasks.safety_gymnasium.navigation:SafetyGymnasium",
    "safety_velocity": "tasks.safety_gymnasium.safety_velocity:SafetyVelocity",
}
"""One line for each built-in family, imported on first use: a lake needs no physics engine."""

_BRIEF = reprlib.Repr()
"""Shows a given value in a message, cut where it is long."""
_BRIEF.maxstring = _BRIEF.maxother = 200
_REQUIRED = ("cost_names", "discount", "horizon", "parameters", "make", "model", "limits")


class FamilyError(ValueError):
    """A family cannot be found or made; ``field`` is the wrong key of the ``family`` section."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(field, message)
        self.field = field
        self.message = message

    def __str__(self) -> str:
        return f"family.{self.field}: {self.message}"


def family_class(name: str) -> type[Any]:
    """The class of a built-in name, ``package.module:ClassName`` or ``path/to/file.py:ClassName``.

    Modules are also searched for in the working directory, and paths are relative to it.
    """
    if not all(BUILT_IN.get(name, name).rpartition(":")):
        raise FamilyError(
            "name",
            f"no family is called {_BRIEF.repr(name)}; known: {', '.join(BUILT_IN)}, or give package.module:ClassName "
            "or path/to/file.py:ClassName",
        )
    return loaded_class(BUILT_IN.get(name, name), here=name not in BUILT_IN)


def loaded_class(name: str, *, here: bool = True) -> type[Any]:
    """The class that ``package.module:ClassName`` or ``path/to/file.py:ClassName`` names; its code runs.

    ``here``: modules are also searched for in the working directory.

    Raises:
        FamilyError: the module does not import, or has no such class.
    """
    module_name, _, class_name = name.rpartition(":")
    if here:
        listen_to_mujoco()
    module = _module_of_file(module_name) if module_name.endswith(".py") else _module(module_name, here=here)
    kind = getattr(module, class_name, None)
    if not isinstance(kind, type):
        found = ", ".join(key for key, value in vars(module).items() if _is_own_class(value, module))
        raise FamilyError("name", f"module {module_name!r} has no class {class_name!r}; its classes: {found or 'none'}")
    if issubclass(kind, gymnasium.Env):
        raise FamilyError(
            "name",
            f"{name} is an environment, not a family of tasks; write a class whose make(parameters) returns one, such "
            "as tasks.contract.family.Family (metasrl init writes an example)",
        )
    return kind


class _ListeningFinder(MetaPathFinder):
    """Finds MuJoCo once, and has its warnings sent to the log as soon as it is imported, before a model is compiled."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Of ``mujoco`` alone; other finders do the finding."""
        if fullname != "mujoco":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_listen(module: ModuleType) -> None:
                execute(module)
                module.set_mju_user_warning(_mujoco_warns)

            spec.loader.exec_module = execute_and_listen  # type: ignore[method-assign]
        return spec


def _mujoco_warns(message: str) -> None:
    from tasks.contract.instability import log_warning  # it imports MuJoCo

    log_warning(message)


def listen_to_mujoco() -> None:
    """Send MuJoCo's warnings to the log, at once if it is imported, else when it is.

    An environment of the user's may compile a model in ``make``, long before a batch could listen; without a listener
    MuJoCo prints its warnings and writes MUJOCO_LOG.TXT into the working directory.
    """
    if "mujoco" in sys.modules:
        sys.modules["mujoco"].set_mju_user_warning(_mujoco_warns)
    elif not any(isinstance(finder, _ListeningFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _ListeningFinder())


def _module(name: str, *, here: bool) -> ModuleType:
    """Import a module; ``here``: also search the working directory, which may be somebody's run directory."""
    if here:
        _search(Path.cwd(), first=True)
    try:
        with code_of_others(lambda: name):
            return importlib.import_module(name)
    except Exception as error:
        raise FamilyError("name", f"module {name!r} does not import: {type(error).__name__}: {error}") from error


def _module_of_file(path: str) -> ModuleType:
    """The module in the file at ``path``, imported once in each process under a name unique to the file."""
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        raise FamilyError(
            "name", f"there is no file {path!r} in {Path.cwd()}; give its path from there, or an absolute one"
        )
    name = f"{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    _search(file.parent, first=False)
    try:
        with code_of_others(lambda: path):
            spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if not isinstance(error, Exception):
            raise
        raise FamilyError("name", f"{path} does not import: {type(error).__name__}: {error}") from error
    return module


def _search(folder: Path, *, first: bool) -> None:
    """Add ``folder`` to the import path, at its front or at its end."""
    if str(folder) not in sys.path:
        sys.path.insert(0 if first else len(sys.path), str(folder))


def _is_own_class(value: object, module: ModuleType) -> bool:
    return isinstance(value, type) and value.__module__ == module.__name__


@dataclass(frozen=True)
class FamilySpec:
    """The recipe of a family, sent to workers instead of the family itself.

    ``contexts``: of its tasks, where policies or starts depend on them; they are computed from the training tasks.
    """

    name: str
    seed: int
    num_tasks: int
    parameters: dict[str, Any]
    contexts: Contexts | None = None

    def make(self) -> TaskFamily:
        """Make the family (see :func:`make_family`)."""
        family = make_family(self.name, seed=self.seed, num_tasks=self.num_tasks, parameters=self.parameters)
        return family if self.contexts is None else ContextualFamily(family, self.contexts)


def make_family(name: str, *, seed: int, num_tasks: int, parameters: dict[str, Any]) -> TaskFamily:
    """Make a family from its name and its own parameters.

    Raises:
        FamilyError: the family does not import, rejects a parameter, or lacks a part of :class:`TaskFamily`.
    """
    kind = family_class(name)
    for taken in ("seed", "num_tasks"):
        if taken in parameters:
            raise FamilyError(taken, "is a setting of the run, not a parameter of the family")
    arguments = {"seed": seed, "num_tasks": num_tasks, **parameters}
    _check_names(name, kind, arguments)
    try:
        with code_of_others(lambda: name):
            family = kind(**arguments)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0]) if first["loc"] else "name"
        raise FamilyError(field, f"{first['msg']} (given: {_BRIEF.repr(first['input'])})") from error
    except Exception as error:
        raise FamilyError("name", f"{name} could not be made: {type(error).__name__}: {error}") from error
    missing = [part for part in _REQUIRED if not hasattr(family, part)]
    if missing:
        raise FamilyError("name", f"{name} lacks {', '.join(missing)}; see tasks.contract.task.TaskFamily")
    return family


def _check_names(name: str, kind: type[Any], arguments: dict[str, Any]) -> None:
    signature = inspect.signature(kind).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in signature.values()):
        return
    for argument in arguments:
        if argument not in signature:
            allowed = ", ".join(sorted(signature))
            raise FamilyError(argument, f"{name} has no such parameter; allowed: {allowed}")

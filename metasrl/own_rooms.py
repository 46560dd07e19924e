"""Whether the packages beside this one are metasrl's own, or others of their names hide them.

``distributed`` is also the package of Dask's scheduler, and ``tasks`` is a common name for a file. Python takes the
first that it finds. So the command line and the Python interface look where each name leads before they import it.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

ROOMS = ("tasks", "policies", "meta", "distributed")
HOME = Path(__file__).resolve().parent.parent
"""The folder that holds metasrl's packages: a checkout, or site-packages."""
_SIGN = "metasrl"
"""The first line of every room's ``__init__.py`` has this word."""
_APART = (
    "metasrl and Dask's scheduler cannot share an environment, since both have a package `distributed`. Give each its "
    "own: python3.11 -m venv metasrl-env && metasrl-env/bin/pip install PATH_OF_THE_WHEEL"
)
_AGAIN = "pip install --force-reinstall --no-deps PATH_OF_THE_WHEEL"


class HiddenPackageError(ImportError):
    """A package of metasrl is hidden by another one of its name, or overwritten by it."""


def require_own_rooms(home: Path = HOME) -> None:
    """Check that importing each of :data:`ROOMS` gives the package in ``home``. Nothing is imported.

    Raises:
        HiddenPackageError: Another package of that name comes first, has overwritten metasrl's, or there is none; the
            message says where it is and what helps.
    """
    for room in ROOMS:
        found = _place(room)
        own = home / room / "__init__.py"
        if found is None:
            raise HiddenPackageError(f"metasrl's package `{room}` is not installed beside {home / 'metasrl'}; {_AGAIN}")
        if found != own.resolve():
            raise HiddenPackageError(
                f"`{room}` is {found}, which hides metasrl's package of that name. {_cure(room, found)}"
            )
        if _SIGN not in own.read_text(encoding="utf-8").partition("\n")[0]:
            raise HiddenPackageError(
                f"another package `{room}` was installed over metasrl's, in {own.parent}. {_APART}. To mend this one: "
                f"pip uninstall {room}, then {_AGAIN}"
            )


def _place(room: str) -> Path | None:
    """The file that importing ``room`` would run."""
    try:
        spec = find_spec(room)
    except ValueError:  # a module that a program has put in place by hand
        spec = None
    return None if spec is None or spec.origin is None else Path(spec.origin).resolve()


def _cure(room: str, found: Path) -> str:
    if room == "distributed" and (found.parent / "scheduler.py").is_file():
        return _APART
    name = found.parent.name if found.name == "__init__.py" else found.name
    return f"Rename {name}, or start Python from another folder"

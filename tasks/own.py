"""The base class of a family of your own, under the name that the first releases gave it; it stays importable here."""

from tasks.contract.family import Family

__all__ = ["Family"]

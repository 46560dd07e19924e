"""Errors that metasrl raises for what a user can cause."""

from __future__ import annotations

from distributed.settings.errors import ConfigurationError
from distributed.storage.checkpoints import DamagedFileError, StorageError
from tasks.contract.task import TaskError

__all__ = ["ConfigurationError", "DamagedFileError", "StorageError", "TaskError"]

"""A base class for your own family: you define a draw, an environment and the limits; it handles seeds and splits."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, final

import gymnasium
import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from tasks.contract.task import Parameters, Split, TaskError
from tasks.contract.timeout import STEP_SECONDS

_TEST_SHARE = 3
"""One draw in this many belongs to the test split, by a hash of its parameters."""
_DRAWS = 1_000


class Family(BaseModel, ABC):
    """Tasks drawn independently from one distribution, without an exact model.

    A subclass defines ``cost_names``, ``cost_limits``, :meth:`draw` and :meth:`make`; its other annotated attributes
    are keys of a run file's ``family`` section. For limits that differ between tasks, drifting sequences or an exact
    model, implement :class:`tasks.contract.task.TaskFamily` directly.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    cost_names: ClassVar[tuple[str, ...]]
    """Names of the p costs, in the order of ``info["cost"]``."""
    limits_on: ClassVar[Literal["discounted", "episodic"]] = "discounted"
    """What the default limits are on: discounted sums of an episode's costs, or plain ones (``returns: episodic``)."""

    gauges: ClassVar[Mapping[str, str]] = {}
    """What films show beside a parameter: the key of ``info`` with its value, ``{"target_speed": "x_velocity"}``."""

    seed: int = Field(ge=0)
    """Seed of every draw of the family."""
    num_tasks: int = Field(default=96, gt=0)
    """Length of the training sequence."""
    cost_limits: tuple[float, ...]
    """Limits [p] on the expected discounted cost of an episode; the same for every task."""
    horizon: int = Field(default=200, gt=0)
    """Steps after which an episode is truncated."""
    discount: float = Field(default=0.99, gt=0.0, lt=1.0)
    """Discount of rewards and costs."""
    step_seconds: float = Field(default=STEP_SECONDS, gt=0.0)
    """Time limit of one reset or step, in seconds."""

    @abstractmethod
    def draw(self, rng: np.random.Generator) -> Mapping[str, Any]:
        """Draw the parameters of one task from ``rng`` alone: numbers, text, lists (NumPy's are converted)."""

    @abstractmethod
    def make(self, parameters: Parameters) -> gymnasium.Env[Any, Any]:
        """Make a new environment whose ``step`` reports the p costs in ``info["cost"]``."""

    @final
    def parameters(self, split: Split, index: int, attempt: int) -> Parameters:
        """The first draw that belongs to ``split``; a hash of the parameters decides, so the splits share no task.

        Raises:
            TaskError: no draw belongs to ``split``, or a parameter is not plain.
        """
        rng = np.random.default_rng([self.seed, ("train", "test").index(split), index, attempt])
        where = f"{type(self).__name__}/{split}/{index}"
        for _ in range(_DRAWS):
            drawn = {name: _plain(value, name, where) for name, value in self.draw(rng).items()}
            if self._split_of(drawn) == split:
                return drawn
        raise TaskError(
            f"{where}: in {_DRAWS} draws none belongs to the {split} split; draw must give more distinct parameters"
        )

    @final
    def model(self, parameters: Parameters) -> None:
        """None: there is no exact model."""
        del parameters

    @final
    def limits(self, parameters: Parameters) -> tuple[float, ...]:
        """``cost_limits``."""
        del parameters
        return self.cost_limits

    def _split_of(self, drawn: Parameters) -> Split:
        digest = hashlib.sha256(f"{self.seed}:{json.dumps(drawn, sort_keys=True)}".encode()).digest()
        return "test" if digest[0] % _TEST_SHARE == 0 else "train"


def _plain(value: Any, name: str, where: str) -> Any:
    """``value`` with NumPy's numbers and arrays converted to Python's."""
    result = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    try:
        json.dumps(result)
    except (TypeError, ValueError):
        raise TaskError(f"{where}: parameter {name} must be plain (text, numbers, lists), got {value!r}") from None
    return result

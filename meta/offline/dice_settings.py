"""How stationary distributions are estimated: the ``dice`` section of a run file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

ESTIMATORS: dict[str, str] = {
    "dualdice_tabular": "meta.estimators.dualdice_tabular:dualdice_tabular",
    "dualdice_linear": "meta.estimators.dualdice_linear:dualdice_linear",
    "dualdice_neural": "meta.estimators.neural_dice:dualdice_neural",
    "gendice": "meta.estimators.neural_dice:gendice",
    "bestdice": "meta.estimators.neural_dice:bestdice",
    "importance": "meta.estimators.importance:importance",
    "none": "meta.estimators.uniform:uniform",
}
"""The function of every estimator by name: the one place to register a new one."""

NEURAL_DEFAULT = "dualdice_linear"
"""The estimator that an empty ``dice.estimator`` selects for neural policies."""


class LinearDICESettings(BaseModel):
    """dualdice_linear: the ``dice.linear`` section."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    features: Literal["one_hot", "random_fourier", "last_layer"] | None = None
    """psi(s, a): an indicator for every pair seen, cosines, or the policy's last hidden layer; empty: one_hot for
    tables, random_fourier else."""
    num_features: int = Field(default=128, gt=1)
    """J, the constant included; for random_fourier only."""
    bandwidth: float = Field(default=1.0, gt=0.0)
    """Length scale of random_fourier, in units of the median distance of normalised pairs (s, a)."""
    samples_per_state: int = Field(default=1, gt=0)
    """Actions drawn for E_{a'~pi} psi(s', a') where actions are continuous; it is exact where they are discrete."""
    ridges: tuple[Annotated[float, Field(ge=0.0)], ...] = Field(default=(1e-6, 1e-5, 1e-4, 1e-3, 1e-2), min_length=1)
    """Candidates of the ridge, in units of its system's mean eigenvalue; the best on held-out episodes is taken."""


class NeuralDICESettings(BaseModel):
    """dualdice_neural, gendice and bestdice: the ``dice.neural`` section."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    hidden: tuple[Annotated[int, Field(gt=0)], ...] = Field(default=(32,), min_length=1)
    """Widths of the hidden layers of nu and of zeta."""
    exponent: float = Field(default=2.0, gt=1.0)
    """q of f(x) = |x|^q / q, for dualdice_neural; its authors' code has 1.5."""
    steps: int = Field(default=3000, gt=0)
    """Adam steps at most."""
    minibatch: int = Field(default=256, gt=0)
    """Transitions, and as many starts, per step."""
    outer_rate: float = Field(default=1e-3, gt=0.0)
    """Adam's step for the outer player, falling linearly to 0: nu of dualdice_neural and bestdice, w of gendice."""
    inner_rate: float = Field(default=1e-2, gt=0.0)
    """Adam's step for the inner player, which must be the faster one: zeta, or f of gendice."""
    averaging: float = Field(default=0.99, ge=0.0, lt=1.0)
    """Share of the running average of both networks that is kept at each step; the average is what counts."""
    check_every: int = Field(default=200, gt=0)
    """Steps between two checks of the flow residual of the held-out episodes."""
    patience: int = Field(default=5, gt=0)
    """Checks without a smaller residual after which training stops."""
    last_layer: Literal["solved", "trained"] = "solved"
    """dualdice_neural: whether zeta's last layer is solved in the end, as dualdice_linear does, or left as trained."""
    normalization: float = Field(default=1.0, gt=0.0)
    """gendice: weight of the penalty on (E_D[w] - 1)^2 / 2."""
    regularization: float = Field(default=1.0, gt=0.0)
    """bestdice: weight of E_D[zeta^2] / 2."""


class DICESettings(BaseModel):
    """How stationary distributions are estimated: the ``dice`` section of a run file."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    estimator: str | None = None
    """none: all samples weigh the same; empty: dualdice_tabular, or dualdice_linear for neural policies."""
    drop_iterations: int = Field(default=0, ge=0)
    """CRPO's first iterations that are left out of the data."""
    iteration_weight: float = Field(default=1.0, gt=0.0, le=1.0)
    """Weight of an iteration's transitions relative to the next one's: below 1 early iterations fade."""
    ridge: float = Field(default=1e-12, ge=0.0)
    """Ridge on nu where the policy reaches pairs without data; never used where the data covers the policy."""
    max_missing_mass: float = Field(default=0.2, ge=0.0, le=1.0)
    """An estimate that misses more than this share of the policy's mass fails its diagnostics."""
    min_effective_sample_size: float = Field(default=0.001, ge=0.0, le=1.0)
    """An estimate whose effective sample size is a smaller share of the data fails."""
    max_negative_share: float | None = Field(default=None, ge=0.0, le=1.0)
    """An estimate with a larger share of negative corrections fails; empty: 0.05 of a table's, 0.5 of others (least
    squares on features has small negative values in its tails)."""
    max_flow_residual: float | None = Field(default=None, gt=0.0)
    """An estimate with a larger Bellman-flow residual on held-out episodes fails; empty: 1 for dualdice_tabular (L1
    norm, 2 is the worst), 0.25 for others (largest of the test functions)."""
    linear: LinearDICESettings = LinearDICESettings()
    """How dualdice_linear works."""
    neural: NeuralDICESettings = NeuralDICESettings()
    """How dualdice_neural, gendice and bestdice work."""
    failed_weight: float = Field(default=0.0, ge=0.0, le=1.0)
    """Weight in the meta-update of a task whose estimate failed its diagnostics; 0 leaves it out."""

    @field_validator("estimator")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        if name is not None and name not in ESTIMATORS:
            raise ValueError(f"must be one of {', '.join(map(repr, ESTIMATORS))}")
        return name

    def resolved(self, *, neural: bool) -> DICESettings:
        """The settings with an empty estimator replaced by the default."""
        if self.estimator is not None:
            return self
        return self.model_copy(update={"estimator": NEURAL_DEFAULT if neural else "dualdice_tabular"})

    @property
    def negative_share_limit(self) -> float:
        """``max_negative_share``, or its default."""
        return (0.05 if self._on_table else 0.5) if self.max_negative_share is None else self.max_negative_share

    @property
    def flow_residual_limit(self) -> float:
        """``max_flow_residual``, or its default."""
        return (1.0 if self._on_table else 0.25) if self.max_flow_residual is None else self.max_flow_residual

    @property
    def _on_table(self) -> bool:
        return self.estimator in (None, "dualdice_tabular")

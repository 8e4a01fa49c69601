"""What the reference benchmark times: ways to compute a step's gradient, and sweeps of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs

from benchmarks.random_models import METHODS, settings_of
from flowbp.adapters import ACTIVATIONS
from flowbp.core import Bridge, Method, Sparse
from flowbp.training import Batching, TrainingSampling

PORTION = 8
BRIDGE = Bridge(active=5, alpha=0.5, late_bias=4.0)


@attrs.frozen(kw_only=True)
class Case:
    """One way to compute the gradient of a step; `at` is the value that a sweep varies."""

    name: str
    at: int | None = None
    # One graph instead of the streamed step, of the whole batch; built while sampling or after it.
    joint: bool = False
    one_pass: bool = False
    # In it, the library's decoder and gelu, which are faster than those of diffusers.
    faster_modules: bool = False
    compiled: bool = True
    checkpointing: bool = False
    # Of the streamed step, as of `compile_backbone`.
    activations: float = ACTIVATIONS
    # More than eight are sampled in portions of eight.
    samples: int = 8
    pull: int = PORTION
    # In a joint graph each part is then checkpointed, so that one part's activations are alive.
    decode: int = 4
    steps: int = 25
    velocity_every: int = 1
    side: int = 512
    method: Method = BRIDGE
    detach_negative: bool = True

    def __attrs_post_init__(self) -> None:
        for name in ("one_pass", "faster_modules"):
            if getattr(self, name) and not self.joint:
                raise ValueError(
                    f"`{name}` is of a joint graph, got {name}=True with joint=False; set "
                    "joint=True"
                )

    @property
    def as_written(self) -> bool:
        """Whether the model stays as diffusers writes it, its blocks compiled or not."""
        return not self.compiled or (self.joint and not self.faster_modules)

    @property
    def batching(self) -> Batching:
        """The portions of the streamed step."""
        return Batching(
            samples=min(self.samples, PORTION),
            accumulate=max(1, self.samples // PORTION),
            pull=self.pull,
            decode=self.decode,
        )

    @property
    def sampling(self) -> TrainingSampling:
        """Guidance 3.5 at this grid and size."""
        return TrainingSampling(
            steps=self.steps,
            guidance=3.5,
            height=self.side,
            width=self.side,
            detach_negative=self.detach_negative,
            velocity_every=self.velocity_every,
        )

    @property
    def brief(self) -> Case:
        """The same shapes in a fraction of the time, to choose and compile kernels."""
        samples = self.samples if self.joint else min(self.samples, PORTION)
        # Of three steps one is not active, as in the whole: both branches in one call.
        return attrs.evolve(
            self, steps=3, velocity_every=1, samples=samples, method=Bridge(active=2)
        )


JOINT = Case(name="joint graph", joint=True, compiled=False, checkpointing=True, decode=PORTION)
ONE_PASS = attrs.evolve(
    JOINT, name="joint graph in one pass, blocks compiled", one_pass=True, compiled=True
)
MAIN = (
    JOINT,
    attrs.evolve(JOINT, name="joint graph, blocks compiled", compiled=True),
    attrs.evolve(ONE_PASS, name="joint graph in one pass", compiled=False),
    ONE_PASS,
    attrs.evolve(ONE_PASS, name=f"{ONE_PASS.name}, decoded by fours", decode=4),
    attrs.evolve(ONE_PASS, name=f"{ONE_PASS.name}, our decoder and gelu", faster_modules=True),
    Case(name="streamed, not compiled", compiled=False),
    Case(name="streamed, blocks compiled"),
    Case(name="streamed, compiled, pulls of 4", pull=4, decode=2),
    Case(name="streamed, compiled, keeps 30%", activations=0.3, decode=2),
    Case(name="streamed, compiled, small memory", checkpointing=True, decode=1),
)


def _active(of: Case, counts: Sequence[int]) -> tuple[Case, ...]:
    return tuple(
        attrs.evolve(of, name=f"K = {k}", at=k, method=attrs.evolve(BRIDGE, active=k))
        for k in counts
    )


def _batch(of: Case, counts: Sequence[int]) -> tuple[Case, ...]:
    return tuple(
        attrs.evolve(
            of,
            name=f"B = {n}",
            at=n,
            samples=n,
            pull=min(n, PORTION),
            decode=n if of.joint else of.decode,
        )
        for n in counts
    )


def _methods() -> tuple[Case, ...]:
    cases = []
    for name in METHODS:
        settings = settings_of("sd35_medium", name)
        detached = settings.sampling.detach_negative
        cases.append(Case(name=name, method=settings.method, detach_negative=detached))
    return tuple(cases)


# Bridge is of two steps at least; Sparse is Bridge without the joint.
_ONE_ACTIVE = Case(name="K = 1, Sparse", at=1, method=Sparse(active=1, late_bias=BRIDGE.late_bias))

SWEEPS: dict[str, Callable[[], tuple[Case, ...]]] = {
    "active": lambda: (_ONE_ACTIVE, *_active(Case(name="K"), (2, 5, 10, 15, 20, 25))),
    "steps": lambda: tuple(Case(name=f"N = {n}", at=n, steps=n) for n in (10, 25, 50)),
    "velocity_every": lambda: tuple(
        Case(name=f"every {n}", at=n, velocity_every=n) for n in (1, 2, 3)
    ),
    "batch": lambda: _batch(Case(name="B"), (1, 2, 4, 8, 16, 32, 64)),
    # A pull takes 3.8 GiB a sample at 512, not compiled, and grows with the tokens, 1613, 2893 and
    # 4685: 30, 54 and 44 GiB for these. The decoder takes 2.9 GiB a picture and grows with the
    # pixels: 12, 13 and 12 GiB. Weights, gradients and reward are 11 GiB besides.
    "resolution": lambda: tuple(
        Case(name=f"{n} x {n}, pull {p}, decode {d}", at=n, side=n, pull=p, decode=d)
        for n, p, d in ((512, 8, 4), (768, 8, 2), (1024, 4, 1))
    ),
    # Small pulls wait for the host: TORCHINDUCTOR_CPP_WRAPPER=1 compiles code that launches faster.
    "portions": lambda: tuple(
        Case(name=f"pull {p}, decode {d}", pull=p, decode=d)
        for p, d in ((8, 4), (8, 2), (4, 4), (4, 2), (2, 1))
    ),
    "activations": lambda: tuple(
        Case(name=f"keeps {share:.0%}, decode 2", activations=share, decode=2)
        for share in (0.5, 0.35, 0.3, 0.2)
    ),
    "method": _methods,
    "joint_active": lambda: _active(ONE_PASS, (2, 5, 10, 25)),
    "joint_batch": lambda: _batch(ONE_PASS, (1, 2, 4, 8, 16)),
}
"""The sweeps by name; those of the joint graph are of the one in one pass, the faster."""

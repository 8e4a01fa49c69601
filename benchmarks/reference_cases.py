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
    """One way to compute the gradient of a step.

    Args:
        name: in the table.
        at: the value that a sweep varies.
        joint: one graph instead of the streamed one, the whole batch at once.
        one_pass: that graph is built while sampling, not after it; of a joint one only.
        compiled: whether compiled code is used.
        checkpointing: of the transformer's blocks.
        activations: as of `compile_backbone`; of the streamed step.
        samples: of the step; more than eight are sampled in portions of eight.
        pull: samples at a time in the backward pass.
        decode: samples at a time in the decoder; in a joint graph each part is then checkpointed,
            so that one part's activations are alive.
        steps: N.
        side: of the pictures, in pixels.
        method: draws the plan.
        detach_negative: as of `Sampling`.

    Raises:
        ValueError: one pass of what is no joint graph.
    """

    name: str
    at: int | None = None
    joint: bool = False
    one_pass: bool = False
    compiled: bool = True
    checkpointing: bool = False
    activations: float = ACTIVATIONS
    samples: int = 8
    pull: int = PORTION
    decode: int = 4
    steps: int = 25
    side: int = 512
    method: Method = BRIDGE
    detach_negative: bool = True

    def __attrs_post_init__(self) -> None:
        """Check what only a joint graph has."""
        if self.one_pass and not self.joint:
            raise ValueError(
                "`one_pass` is of a joint graph, got one_pass=True with joint=False; set joint=True"
            )

    @property
    def as_written(self) -> bool:
        """Whether the model stays as diffusers writes it, its blocks compiled or not."""
        return self.joint or not self.compiled

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
        )

    @property
    def brief(self) -> Case:
        """The same shapes in a fraction of the time, to choose and compile kernels."""
        samples = self.samples if self.joint else min(self.samples, PORTION)
        # Of three steps one is not active, as in the whole: both branches in one call.
        return attrs.evolve(self, steps=3, samples=samples, method=Bridge(active=2))


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


def _active_from_one() -> tuple[Case, ...]:
    # Bridge is of two steps at least; Sparse is Bridge without the joint.
    one = Case(name="K = 1, Sparse", at=1, method=Sparse(active=1, late_bias=BRIDGE.late_bias))
    return (one, *_active(one, (2, 5, 10, 15, 20, 25)))


def _steps() -> tuple[Case, ...]:
    return tuple(Case(name=f"N = {n}", at=n, steps=n) for n in (10, 25, 50))


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


def _resolution() -> tuple[Case, ...]:
    # A pull takes 3.8 GiB a sample at 512, not compiled, and grows with the tokens, 1613, 2893 and
    # 4685: 30, 54 and 44 GiB for these. The decoder takes 2.9 GiB a picture and grows with the
    # pixels: 12, 13 and 12 GiB. Weights, gradients and reward are 11 GiB besides.
    sizes = ((512, 8, 4), (768, 8, 2), (1024, 4, 1))
    return tuple(
        Case(
            name=f"{side} x {side}, pull {pull}, decode {decode}",
            at=side,
            side=side,
            pull=pull,
            decode=decode,
        )
        for side, pull, decode in sizes
    )


def _portions() -> tuple[Case, ...]:
    # Small pulls wait for the host: TORCHINDUCTOR_CPP_WRAPPER=1 compiles code that launches faster.
    sizes = ((8, 4), (8, 2), (4, 4), (4, 2), (2, 1))
    return tuple(
        Case(name=f"pull {pull}, decode {decode}", pull=pull, decode=decode)
        for pull, decode in sizes
    )


def _activations() -> tuple[Case, ...]:
    shares = (0.5, 0.35, 0.3, 0.2)
    return tuple(
        Case(name=f"keeps {share:.0%}, decode 2", activations=share, decode=2) for share in shares
    )


def _method(name: str) -> Case:
    settings = settings_of("sd35_medium", name)
    detached = settings.sampling.detach_negative
    return Case(name=name, method=settings.method, detach_negative=detached)


SWEEPS: dict[str, Callable[[], tuple[Case, ...]]] = {
    "active": _active_from_one,
    "steps": _steps,
    "batch": lambda: _batch(Case(name="B"), (1, 2, 4, 8, 16, 32, 64)),
    "resolution": _resolution,
    "portions": _portions,
    "activations": _activations,
    "method": lambda: tuple(map(_method, METHODS)),
    "joint_active": lambda: _active(ONE_PASS, (2, 5, 10, 25)),
    "joint_batch": lambda: _batch(ONE_PASS, (1, 2, 4, 8, 16)),
}
"""The sweeps by name; those of the joint graph are of the one in one pass, the faster."""

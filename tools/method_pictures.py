"""The picture of the methods in docs/choosing.md: one surrogate of each, as it was drawn.

    python -m tools.method_pictures docs/methods.svg

Marks have ids such as `row3-active-2`, by which the tests count them.
"""

from __future__ import annotations

import argparse
import io
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, PathPatch, Rectangle
from matplotlib.path import Path as Outline

from flowbp.core import (
    Bridge,
    DRaFT,
    DRaFTLV,
    DRTune,
    Lagrange,
    LeapAlign,
    Method,
    ReFL,
    Segment,
    Sparse,
    Surrogate,
    Variant,
    draw_surrogate,
    euler,
)
from flowbp.training import TrainingSampling, cost
from flowbp.training.batching import Cost

STEPS = 10
SIGMAS = torch.linspace(1, 0, STEPS + 1, dtype=torch.float64)
METHODS: Mapping[str, Method] = {
    "ReFL(last=4)": ReFL(last=4),
    "DRaFTLV(noised=2)": DRaFTLV(noised=2),
    "DRTune(active=3)": DRTune(active=3),
    "LeapAlign()": LeapAlign(),
    "Sparse(active=4)": Sparse(active=4),
    "Bridge(active=4)": Bridge(active=4),
    "Lagrange()": Lagrange(),
    "DRaFT(last=3)": DRaFT(last=3),
    "DRaFT(last=10)": DRaFT(last=10),
    "Variant(LeapAlign(), reward_input='posterior_mean')": Variant(
        LeapAlign(), reward_input="posterior_mean"
    ),
}
"""By the expression that makes it."""
DRAWS = 400
# The seed of a draw in which leaps are neither very short nor very long.
_SEED = 30

_INK, _GREY, _PALE, _FAINT = "#1f2328", "#59636e", "#afb8c1", "#e4e8ec"
_BLUE, _ORANGE, _GREEN = "#0969da", "#bc4c00", "#1a7f37"
# In points, from the upper left corner.
_WIDTH, _HEAD, _ROW, _FOOT = 614, 40, 64, 104
_LEFT, _STEP, _DISC = 146, 27, 4.2
_COLUMNS = {"reward reads": 462, "velocity calls": 510, "pulls": 545, "Jacobians": 584}
_LOOK: Any = {
    "font.size": 9,
    "text.color": _INK,
    # Texts stay texts, and equal pictures equal files.
    "svg.fonttype": "none",
    "svg.hashsalt": "flowbp",
}


def surrogate_of(method: Method, seed: int = _SEED) -> Surrogate:
    """What the method draws on the picture's grid."""
    return draw_surrogate(method, SIGMAS, torch.Generator().manual_seed(seed))


def cost_of(surrogate: Surrogate) -> Cost:
    """Network evaluations for each sample, without guidance."""
    return cost(surrogate, TrainingSampling(steps=STEPS, guidance=1, height=64, width=64))


def shares(method: Method) -> list[float]:
    """In which share of many draws each step is active."""
    generator = torch.Generator().manual_seed(0)
    drawn = [draw_surrogate(method, SIGMAS, generator).active_steps for _ in range(DRAWS)]
    return [sum(i in active for active in drawn) / DRAWS for i in range(STEPS)]


def joints(surrogate: Surrogate) -> list[tuple[int, int]]:
    """Each joint whose Jacobian is kept, with the first active step of the segment before it."""
    pairs = itertools.pairwise(surrogate.segments)
    return [
        (after.start, min(before.active))
        for before, after in pairs
        if surrogate.alpha and after.start in after.active and before.active
    ]


def hops(segment: Segment) -> Iterator[tuple[int, int, bool]]:
    """The segment's arcs and whether each has a gradient: one a support under Euler, or one."""
    supports = sorted(segment.weights)
    if supports[0] == segment.start:
        steps = euler(SIGMAS, segment.start, segment.stop, supports)
        if all(abs(steps[i] - segment.weights[i]) < 1e-9 for i in supports):
            for i, stop in zip(supports, (*supports[1:], segment.stop), strict=True):
                yield i, stop, i in segment.active
            return
    yield segment.start, segment.stop, bool(segment.active)


@attrs.frozen
class Pen:
    """Draws marks at steps of a row, whose path is at height `y`; `row` begins their ids."""

    axes: Axes
    y: float
    row: str

    def x(self, step: float) -> float:
        return _LEFT + _STEP * step

    def path(self, start: float, stop: float, **look: Any) -> None:
        look = {"color": _PALE, "linewidth": 1.6, **look}
        self.axes.plot([self.x(start), self.x(stop)], [self.y, self.y], **look)

    def step(self, i: float) -> None:
        self._disc(f"step-{i:g}", i, 1.6, color=_PALE)

    def support(self, i: float) -> None:
        self._disc(f"support-{i:g}", i, 2.8, facecolor="white", edgecolor=_PALE)

    def active(self, i: float, scale: float = 1.0) -> None:
        radius = max(1.5, _DISC * min(2.0, abs(scale)) ** 0.5)
        self._disc(f"active-{i:g}", i, radius, color=_BLUE, zorder=4)

    def copy(self, i: float, number: int, drop: float) -> None:
        self._disc(f"copy{number}-{i:g}", i, 3, drop=drop, facecolor="white", edgecolor=_BLUE)

    def joint(self, j: float) -> None:
        look: Any = {"edgecolor": _ORANGE, "facecolor": "none", "linewidth": 1.5}
        self._disc(f"joint-{j:g}", j, _DISC + 2.8, **look)

    def arc(self, start: float, stop: float, *, learns: bool) -> None:
        left, right = self.x(start), self.x(stop)
        top = (left + right) / 2, self.y - 13 - 5 * (stop - start)
        codes = [Outline.MOVETO, Outline.CURVE3, Outline.CURVE3]
        path = Outline([(left, self.y), top, (right, self.y)], codes)
        patch = PathPatch(path, facecolor="none", edgecolor=_BLUE if learns else _PALE)
        patch.set(linewidth=1.6, zorder=2, gid=f"{self.row}-arc-{start:g}-{stop:g}")
        self.axes.add_patch(patch)

    def back(self, joint: float, reached: float, alpha: float) -> None:
        """The way of the late gradient through the joint, to the first step that it reaches."""
        span = joint - reached
        left, right, y = self.x(reached) + 2, self.x(joint) - 3, self.y + 7
        arrow = FancyArrowPatch((right, y), (left, y), arrowstyle="-|>", mutation_scale=7)
        arrow.set_connectionstyle("arc3", rad=-0.18)
        arrow.set(color=_ORANGE, linewidth=1.1)
        self.axes.add_patch(arrow)
        look: Any = {"size": 7.5, "color": _ORANGE, "ha": "center", "va": "center"}
        self.axes.text((left + right) / 2, y + 8 + 2.4 * span, f"α {alpha:g}", **look)

    def read(self, at: float, *, sample: bool) -> None:
        square = Rectangle((self.x(at) - 4.5, self.y - 4.5), 9, 9, edgecolor=_GREEN, zorder=4)
        square.set(facecolor=_GREEN if sample else "white", linewidth=1.6, gid=f"{self.row}-read")
        self.axes.add_patch(square)

    def share(self, i: float, share: float, drop: float) -> None:
        cell = Rectangle((self.x(i) - 9, self.y + drop), 18, 4, color=_BLUE, linewidth=0)
        cell.set(alpha=round(0.08 + 0.92 * share, 2), gid=f"{self.row}-share-{i:g}")
        self.axes.add_patch(cell)

    def _disc(self, kind: str, at: float, radius: float, drop: float = 0, **look: Any) -> None:
        circle = Circle((self.x(at), self.y + drop), radius, gid=f"{self.row}-{kind}")
        circle.set(**({"zorder": 3} | look))
        self.axes.add_patch(circle)


def draw_row(pen: Pen, surrogate: Surrogate, often: Sequence[float]) -> None:
    """The sampler's path, the surrogate above it, the joints below it."""
    sample = surrogate.reward_input == "sample"
    pen.path(0, STEPS, linewidth=0.9, linestyle=(0, (1, 2)))
    pen.path(0, STEPS if sample else surrogate.horizon - 1)
    supports = {i for segment in surrogate.segments for i in segment.weights}
    for i in sorted(set(range(surrogate.horizon)) - supports):
        pen.step(i)
    for segment in surrogate.segments:
        for start, stop, learns in hops(segment):
            pen.arc(start, stop, learns=learns)
        for i in sorted(set(segment.weights) - set(segment.active)):
            pen.support(i)
        for i, scale in segment.active.items():
            pen.active(i, scale)
    for number in range(surrogate.noised):
        pen.copy(surrogate.segments[0].start, number, drop=11 + 8 * number)
    for joint, reached in joints(surrogate):
        pen.joint(joint)
        pen.back(joint, reached, surrogate.alpha)
    pen.read(STEPS, sample=sample)
    for i, share in enumerate(often):
        if share:
            pen.share(i, share, drop=26)


def write_row(pen: Pen, name: str, surrogate: Surrogate) -> None:
    """The name on the left, the counts on the right."""
    title, _, settings = name.removesuffix(")").partition("(")
    pen.axes.text(10, pen.y - 2, title, weight="bold", va="center")
    lines = [line for line in settings.replace(", ", ",\n").splitlines() if line]
    if surrogate.alpha == 1 and len(joints(surrogate)) == STEPS - 1:
        lines.append("the exact gradient")
    for number, line in enumerate(lines):
        pen.axes.text(10, pen.y + 10 + 10 * number, line, size=7.5, color=_GREY, va="center")
    spent = cost_of(surrogate)
    reads = "sample" if surrogate.reward_input == "sample" else "prediction"
    values = (reads, spent.forward, spent.backward, len(joints(surrogate)))
    for x, value in zip(_COLUMNS.values(), values, strict=True):
        pen.axes.text(x, pen.y, str(value), ha="center", va="center")


def write_head(axes: Axes) -> None:
    """The numbers of the steps and the titles of the columns."""
    pen = Pen(axes, 20, "head")
    look: Any = {"size": 8, "color": _GREY, "va": "center"}
    axes.text(pen.x(0) - 12, pen.y, "noise", ha="right", **look)
    for i in range(STEPS):
        axes.text(pen.x(i), pen.y, str(i), ha="center", **look)
    axes.text(pen.x(STEPS), pen.y, "sample", ha="center", **look)
    for title, x in _COLUMNS.items():
        axes.text(x, pen.y, title.replace(" ", "\n"), ha="center", **look)


def write_key(axes: Axes, top: float) -> None:
    """What the marks mean."""
    for column, marks in enumerate(_KEY):
        at = (24 + 300 * column - _LEFT) / _STEP
        for number, (text, draw) in enumerate(marks.items()):
            pen = Pen(axes, top + 18 * number, f"key{column}{number}")
            draw(pen, at)
            axes.text(pen.x(at) + 18, pen.y, text, size=8, va="center")


_KEY: tuple[Mapping[str, Callable[[Pen, float], None]], ...] = (
    {
        "the sampler's path, without gradient": lambda pen, at: pen.path(at - 0.4, at + 0.4),
        "a leap or a step of the surrogate; grey: without gradient": lambda pen, at: attrs.evolve(
            pen, y=pen.y + 4
        ).arc(at - 0.4, at + 0.4, learns=True),
        "active: evaluated again with gradient; small: γ < 1": lambda pen, at: pen.active(at),
        "support that enters the surrogate as a constant": lambda pen, at: pen.support(at),
        "the darker, the more often the step is active in many draws": lambda pen, at: pen.share(
            at, 0.6, -2
        ),
    },
    {
        "joint: the late gradient goes on through α of its Jacobian": lambda pen, at: pen.joint(at),
        "renoised copy of the step, active too": lambda pen, at: pen.copy(at, 0, 0),
        "the reward reads the sample": lambda pen, at: pen.read(at, sample=True),
        "the reward reads a prediction": lambda pen, at: pen.read(at, sample=False),
    },
)


def picture(methods: Mapping[str, Method] = METHODS) -> str:
    """The SVG."""
    height = _HEAD + _ROW * len(methods) + _FOOT
    title = "One surrogate of each method on a grid of ten steps"
    with matplotlib.rc_context(_LOOK):
        figure = Figure(figsize=(_WIDTH / 72, height / 72))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, _WIDTH), ylim=(height, 0))
        axes.axis("off")
        write_head(axes)
        for number, (name, method) in enumerate(methods.items()):
            pen = Pen(axes, _HEAD + _ROW * number + 32, f"row{number}")
            axes.axhline(_HEAD + _ROW * number, color=_FAINT, linewidth=0.8)
            surrogate = surrogate_of(method)
            draw_row(pen, surrogate, shares(method))
            write_row(pen, name, surrogate)
        axes.axhline(height - _FOOT, color=_FAINT, linewidth=0.8)
        write_key(axes, height - _FOOT + 17)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Title": title})
    return stream.getvalue()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.parse_args().out.write_text(picture())


if __name__ == "__main__":
    main()

"""Line charts as SVG files that can be read on light and on dark pages."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from markupsafe import Markup, escape

from flowbp.evaluation.svg import Axis, LinearAxis, LogAxis

_WIDTH, _HEIGHT = 680.0, 380.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 56.0, 656.0, 92.0, 330.0
_STYLE = """
text { font: 13px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: #59636e; }
.title { font-size: 16px; font-weight: 600; fill: #1f2328; }
.ground { fill: #ffffff; }
.grid { stroke: #d1d9e0; }
.line { fill: none; stroke-width: 2.5; stroke-linejoin: round; stroke-linecap: round; }
.series-0 { stroke: #0969da; } .mark-0 { fill: #0969da; }
.series-1 { stroke: #bc4c00; stroke-dasharray: 7 5; } .mark-1 { fill: #bc4c00; }
.missing { stroke: #bc4c00; stroke-width: 2.5; }
@media (prefers-color-scheme: dark) {
  text { fill: #9198a1; }
  .title { fill: #f0f6fc; }
  .ground { fill: #0d1117; }
  .grid { stroke: #3d444d; }
  .series-0 { stroke: #58a6ff; } .mark-0 { fill: #58a6ff; }
  .series-1 { stroke: #f0883e; } .mark-1 { fill: #f0883e; }
  .missing { stroke: #f0883e; }
}
"""


@attrs.frozen
class Series:
    """One line of a chart.

    Args:
        name: in the legend.
        points: ``(x, y)``, in order of x.
        missing: x of what ran out of memory.
    """

    name: str
    points: tuple[tuple[float, float], ...]
    missing: tuple[float, ...] = ()

    @property
    def across(self) -> tuple[float, ...]:
        """Every x."""
        return (*(x for x, _ in self.points), *self.missing)


def draw(
    title: str, note: str, across: str, series: Sequence[Series], *, doubling: bool = False
) -> str:
    """A chart whose values begin at 0, as an SVG file's text.

    Args:
        title: what is shown, with its unit.
        note: where it was measured.
        across: what x is.
        series: one or two, with a point between them.
        doubling: x doubles from value to value, and so equal ratios have equal lengths.

    Returns:
        The text.

    Raises:
        ValueError: there is nothing to draw.
    """
    values = sorted({x for each in series for x in each.across})
    heights = [y for each in series for _, y in each.points]
    if not heights:
        raise ValueError(f"`series` of {title!r} have no point; leave the chart out")
    ends = values[0], max(values[-1], values[0] + 1)
    x_axis = LogAxis(*ends) if doubling else LinearAxis(*ends)
    # What did not fit is marked above all else.
    room = 1.25 if any(each.missing for each in series) else 1.08
    y_axis = LinearAxis(0.0, room * max(heights))
    parts = [_frame(y_axis), _across(x_axis, values, across), _legend(series)]
    parts += [_line(i, each, x_axis, y_axis) for i, each in enumerate(series)]
    head = _text(_LEFT, 26, title, style="title") + _text(_LEFT, 46, note)
    svg = Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {:g} {:g}" role="img">'
        '<title>{}</title><style>{}</style><rect class="ground" width="100%" height="100%"/>{}'
        "</svg>\n"
    ).format(_WIDTH, _HEIGHT, title, Markup(_STYLE), head + Markup("").join(parts))
    return str(svg)


def _frame(up: Axis) -> Markup:
    parts = []
    for value, label in up.ticks():
        y = _y(up, value)
        line = '<line class="grid" x1="{:g}" x2="{:g}" y1="{:.1f}" y2="{:.1f}"/>'
        parts.append(Markup(line).format(_LEFT, _RIGHT, y, y))
        parts.append(_text(_LEFT - 8, y + 4.5, label, anchor="end"))
    return Markup("").join(parts)


def _across(axis: Axis, values: Sequence[float], name: str) -> Markup:
    ticks = [_text(_x(axis, v), _BOTTOM + 20, f"{v:g}", anchor="middle") for v in values]
    return Markup("").join(
        [*ticks, _text((_LEFT + _RIGHT) / 2, _HEIGHT - 8, name, anchor="middle")]
    )


def _legend(series: Sequence[Series]) -> Markup:
    parts, x = [], _LEFT
    for i, each in enumerate(series):
        parts.append(_path(f"line series-{i}", [(x, 68.0), (x + 28, 68.0)]))
        parts.append(_mark(i, x + 14, 68.0))
        parts.append(_text(x + 36, 72.5, each.name))
        x += 60 + 7.0 * len(each.name)
    return Markup("").join(parts)


def _line(number: int, series: Series, across: Axis, up: Axis) -> Markup:
    places = [(_x(across, x), _y(up, y)) for x, y in series.points]
    parts = [_path(f"line series-{number}", places)] if len(places) > 1 else []
    parts += [_mark(number, *place) for place in places]
    return Markup("").join([*parts, _crosses([_x(across, x) for x in series.missing])])


def _crosses(across: Sequence[float]) -> Markup:
    y, parts = _TOP + 12, []
    for x in across:
        parts.append(_path("missing", [(x - 5, y - 5), (x + 5, y + 5)]))
        parts.append(_path("missing", [(x - 5, y + 5), (x + 5, y - 5)]))
    if across and max(across) < (_LEFT + _RIGHT) / 2:
        parts.append(_text(max(across) + 12, y + 4.5, "out of memory"))
    elif across:
        parts.append(_text(min(across) - 12, y + 4.5, "out of memory", anchor="end"))
    return Markup("").join(parts)


def _path(style: str, places: Sequence[tuple[float, float]]) -> Markup:
    moves = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    return Markup('<path class="{}" d="M{}"/>').format(escape(style), moves)


def _mark(number: int, x: float, y: float) -> Markup:
    # Round or square, because colour alone says nothing to some.
    if number == 0:
        return Markup('<circle class="mark-0" cx="{:.1f}" cy="{:.1f}" r="4.5"/>').format(x, y)
    square = '<rect class="mark-1" x="{:.1f}" y="{:.1f}" width="8" height="8"/>'
    return Markup(square).format(x - 4, y - 4)


def _text(x: float, y: float, content: str, *, anchor: str = "start", style: str = "") -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(
        style, x, y, anchor, content
    )


def _x(axis: Axis, value: float) -> float:
    return _LEFT + axis.position(value) * (_RIGHT - _LEFT)


def _y(axis: Axis, value: float) -> float:
    return _BOTTOM - axis.position(value) * (_BOTTOM - _TOP)

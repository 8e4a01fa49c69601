"""From pictures back to scenes."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from flowbp.shapes.render import OUTLINES, coverage
from flowbp.shapes.scene import COLOURS, KINDS, SIZE, Shape

_LEAST_AREA = 30
_LEAST_OVERLAP = 0.85
_FARTHEST_COLOUR = 0.3
_LIGHTEST_BACKGROUND = 0.35
_LARGEST_RADIUS = 22
_FRAME = 2
_CHUNK = 128


@attrs.frozen
class Reading:
    """What is seen in a picture: known shapes, the largest first, and how many unknown regions.

    The shapes need not form a legal `Scene`.
    """

    shapes: tuple[Shape, ...]
    unknown: int


def read_scenes(images: Tensor) -> list[Reading]:
    """Read pictures (B, 3, 64, 64) in [0, 1] back into the objects that they show.

    Each pixel is taken for a mixture bg + a (colour − bg) of the picture's background and the
    colour that leaves the smallest residual; it belongs to an object where a ≥ 1/2. Connected
    pixels of one colour form a region; a region of fewer than 30 pixels is dropped. A region is
    of the kind whose ideal shape with the region's area and centroid overlaps it best, and
    unknown where even that intersection over union is below 0.85, or where the radius exceeds
    22 pixels, twice the largest drawn. Values outside [0, 1] are clamped.
    """
    if images.ndim != 4 or images.shape[1:] != (3, SIZE, SIZE):
        raise ValueError(
            f"`images` must be (B, 3, {SIZE}, {SIZE}), got {tuple(images.shape)}; resize them first"
        )
    if not images.isfinite().all():
        raise ValueError(
            "`images` must be finite, got nan or inf; look for the step that made them"
        )
    with torch.no_grad():
        chunks = torch.split(images.detach().float().clamp(0, 1), _CHUNK)
        return [reading for chunk in chunks for reading in _read(chunk)]


def _read(images: Tensor) -> list[Reading]:
    classes, amounts = _unmix(images)
    labels = connected_components(classes).flatten(1)
    found = labels >= 0
    areas = torch.zeros_like(labels).scatter_add_(1, labels.clamp(min=0), found.long())
    picture, root = (areas >= _LEAST_AREA).nonzero(as_tuple=True)
    masks = (labels[picture] == root[:, None]).view(-1, SIZE, SIZE)
    boxes, overlaps = _fit(masks, amounts[picture])
    overlap, kind = overlaps.max(dim=1)
    best = boxes.gather(1, kind[:, None, None].expand(-1, 1, 3)).squeeze(1)
    colour = classes.flatten(1)[picture, root]
    # A wash of colour fills the picture as a square would, so size must count as well as form.
    small = best[:, 2] <= _LARGEST_RADIUS
    known = (overlap >= _LEAST_OVERLAP) & (colour < len(COLOURS)) & small
    order = areas[picture, root].argsort(descending=True, stable=True)
    columns = (picture, kind, colour, known, best)
    names = tuple(COLOURS)
    shapes: list[list[Shape]] = [[] for _ in images]
    unknown = [0] * len(images)
    for place, form, paint, sure, box in zip(
        *(column[order].tolist() for column in columns), strict=True
    ):
        if sure:
            shapes[place].append(Shape(KINDS[form], names[paint], *box))
        else:
            unknown[place] += 1
    return [Reading(tuple(seen), rest) for seen, rest in zip(shapes, unknown, strict=True)]


def _unmix(images: Tensor) -> tuple[Tensor, Tensor]:
    """Each pixel's colour and how much of it there is, both (B, H, W).

    The colour is −1 for background and one past the palette for a colour outside it.
    """
    palette = torch.tensor(list(COLOURS.values()), dtype=images.dtype, device=images.device)
    background = _background(images)
    pixels = (images - background[:, :, None, None]).flatten(2)
    # Towards the palette's colours, (B, C, 3).
    towards = palette - background[:, None]
    length = towards.square().sum(2)
    amount = (towards @ pixels) / length[:, :, None]
    drawn = amount.clamp(0, 1)
    # |p − a t|² = |p|² − 2 a (p·t) + a² |t|²
    residual = (
        pixels.square().sum(1, keepdim=True) - drawn * (2 * amount - drawn) * length[:, :, None]
    )
    nearest, colour = residual.min(dim=1)
    colour = colour.where(nearest <= _FARTHEST_COLOUR**2, len(COLOURS))
    amount = drawn.gather(1, colour.clamp(max=len(COLOURS) - 1)[:, None]).squeeze(1)
    occupied = (amount >= 0.5) | (colour == len(COLOURS))
    return colour.where(occupied, -1).view(-1, SIZE, SIZE), amount.view(-1, SIZE, SIZE)


def _background(images: Tensor) -> Tensor:
    """The median of the border (B, 3), kept dark: a light border is not this world's background."""
    frame = torch.ones(SIZE, SIZE, dtype=torch.bool, device=images.device)
    frame[_FRAME:-_FRAME, _FRAME:-_FRAME] = False
    return images[:, :, frame].median(dim=2).values.clamp(max=_LIGHTEST_BACKGROUND)


def _fit(masks: Tensor, amounts: Tensor) -> tuple[Tensor, Tensor]:
    """Fit every kind to every region (n, H, W): boxes x, y, radius (n, K, 3), overlaps (n, K)."""
    # A soft edge carries its share of area, one pixel beyond the region; that makes the fit
    # finer than a pixel. The overlap is that of hard outlines, so that blur is no fault.
    edged = max_pool2d(masks[:, None].float(), kernel_size=3, stride=1, padding=1)[:, 0] * amounts
    grid = torch.arange(SIZE, dtype=edged.dtype, device=edged.device) + 0.5
    area = edged.sum((1, 2))
    x = (edged.sum(1) @ grid) / area
    y = (edged.sum(2) @ grid) / area
    boxes, overlaps = [], []
    for kind in KINDS:
        outline = OUTLINES[kind]
        radius = (area / outline.area).sqrt()
        centre = y - outline.centroid * radius
        ideal = coverage(kind, x, centre, radius) >= 0.5
        shared, either = (masks & ideal).sum((1, 2)), (masks | ideal).sum((1, 2))
        overlaps.append(shared / either)
        boxes.append(torch.stack((x, centre, radius), dim=1))
    return torch.stack(boxes, dim=1), torch.stack(overlaps, dim=1)


def connected_components(classes: Tensor) -> Tensor:
    """Number the connected regions of equal class in (B, H, W), edge neighbours only.

    Every pixel takes the largest pixel number among its neighbours of the same class and follows
    that pixel's own label, until nothing changes. Negative classes are background, numbered −1.
    """
    batch, height, width = classes.shape
    numbers = torch.arange(height * width, device=classes.device)
    labels = numbers.view(1, height, width).repeat(batch, 1, 1)
    occupied = classes >= 0
    across = (classes[:, :, 1:] == classes[:, :, :-1]) & occupied[:, :, 1:]
    down = (classes[:, 1:] == classes[:, :-1]) & occupied[:, 1:]
    settled = False
    while not settled:
        before = labels.clone()
        _share(labels[:, :, :-1], labels[:, :, 1:], across)
        _share(labels[:, :-1], labels[:, 1:], down)
        labels = labels.flatten(1).gather(1, labels.flatten(1)).view_as(labels)
        settled = torch.equal(labels, before)
    return labels.where(occupied, -1)


def _share(one: Tensor, other: Tensor, joined: Tensor) -> None:
    # The two overlap in memory, so the second must see what the first has written.
    one.copy_(torch.maximum(one, other).where(joined, one))
    other.copy_(torch.maximum(one, other).where(joined, other))

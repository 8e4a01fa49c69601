"""Calls metrics, checks what they return, and finds the picture at which one fails."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

import attrs
import torch
from torch import Tensor

from flowbp.component_errors import ComponentError, calling, shown, wrong
from flowbp.evaluation.held_out_prompts import HeldOut, HeldOutText
from flowbp.evaluation.metric import Metric, PictureSet, SetMetric
from flowbp.evaluation.reward_metrics import numbers
from flowbp.evaluation.sampling import Sharers
from flowbp.memory_errors import is_out_of_memory

_LONGEST = 200
_Picture = TypeVar("_Picture")
_Found = TypeVar("_Found")


@attrs.frozen(eq=False)
class Failure(Generic[_Picture]):
    """An error and the pictures that were judged together when it was raised."""

    of: Sequence[_Picture]
    error: Exception


def run_metric(
    judge: Callable[[Tensor, Sequence[_Picture]], _Found],
    images: Tensor,
    of: Sequence[_Picture],
    *,
    stops: bool,
    freed: Callable[[Exception], object] = lambda error: None,
) -> tuple[list[_Found], list[Failure[_Picture]]]:
    """Judge pictures together or, where that fails, each alone; return results and failures.

    With `stops` the first failure is the only one. Otherwise every picture at which it fails is
    one, or all of them where it fails only together. `freed` is called with each error before more
    is judged, to free what its frames hold.
    """
    found: list[_Found] = []
    together = _failure(judge, images, of, found)
    if together is None:
        return found, []
    freed(together.error)
    if stops and (len(of) == 1 or is_out_of_memory(together.error)):
        return [], [together]
    failed = []
    for number in range(len(of)):
        one = slice(number, number + 1)
        alone = _failure(judge, images[one], of[one], found)
        if alone is None:
            continue
        if stops:
            return [], [alone]
        freed(alone.error)
        failed.append(alone)
    return found, failed or [together]


def _failure(
    judge: Callable[[Tensor, Sequence[_Picture]], _Found],
    images: Tensor,
    of: Sequence[_Picture],
    found: list[_Found],
) -> Failure[_Picture] | None:
    try:
        found.append(judge(images, of))
    # A metric is code of others, and whatever it raises is its failure.
    except Exception as error:
        return Failure(of, error)
    return None


def metric_columns(
    metric: Any,
    call: Callable[[], Any],
    texts: Sequence[str],
    *,
    label: str,
    called: Callable[[str], str] = str,
) -> dict[str, Tensor]:
    """Call a metric; anything but one finite number or NaN a picture and column is an error."""
    kind = f"metric `{label}`"
    with calling(kind, metric, texts):
        found = call()
    if isinstance(found, Tensor):
        found = {label: found}
    if not isinstance(found, Mapping):
        must = "must return one number per picture as a tensor, or such columns by name"
        raise wrong(kind, metric, f"{must}, got {shown(found)}", texts)
    by_name: dict[str, Tensor] = {}
    for own, values in found.items():
        if not isinstance(own, str) or not own.isprintable() or not 0 < len(own) <= _LONGEST:
            must = f"must name its columns by printable texts of at most {_LONGEST} characters"
            raise wrong(kind, metric, f"{must}, got {shown(own)}", texts)
        name = called(own)
        if name in by_name:
            must = f"returned two columns that would be called {name!r}"
            raise wrong(kind, metric, must, texts)
        try:
            by_name[name] = numbers(own, values, texts)
        except ValueError as error:
            raise wrong(kind, metric, f"returned a wrong column: {error}", texts) from None
        for value, text in zip(by_name[name].tolist(), texts, strict=True):
            if value in (torch.inf, -torch.inf):
                must = f"must return finite numbers in `{name}`"
                raise wrong(kind, metric, f"{must}, got {value}", [text])
    return by_name


@attrs.frozen(eq=False)
class ColumnNames:
    """The names of a metric's columns, which the first batch decides."""

    _seen: list[list[str]] = attrs.field(factory=list, init=False)

    @property
    def first(self) -> list[str]:
        """Those found first; none before any are."""
        return self._seen[0] if self._seen else []

    def agree(self, names: Iterable[str]) -> bool:
        """Whether names are those found first, in whatever order."""
        found = list(names)
        if not self._seen:
            self._seen.append(found)
        return set(found) == set(self.first)


@attrs.frozen(eq=False)
class OnDevice(Sequence[Tensor]):
    """Pictures that lie on the CPU and are moved to a device one by one, when asked for."""

    # By their numbers where only some are there.
    images: Sequence[Tensor] | Tensor | Mapping[int, Tensor]
    device: torch.device

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: Any) -> Any:
        return self.images[number].to(self.device)


@torch.no_grad()
def columns_of_pictures(
    metric: Metric,
    images: Sequence[Tensor] | Tensor,
    prompts: Sequence[HeldOut],
    *,
    batch: int,
    label: str,
    ranks: Sharers | None = None,
) -> dict[str, Tensor]:
    """Have a metric judge pictures, `batch` at a time; (n,) float64 by column.

    Of several processes each judges its turns of the batches, as they are sampled, and needs no
    other pictures. The first gets all columns; the others get none.
    """
    names = ColumnNames()
    found: list[dict[str, Tensor]] = []
    for start, columns in _judged_batches(metric, images, prompts, batch, label, ranks):
        found.append(columns)
        if not names.agree(columns):
            problem = (
                f"returned the columns {', '.join(names.first) or 'none'} for one batch and "
                f"{', '.join(columns) or 'none'} for another; return the same for every batch, "
                "NaN where one does not judge a picture"
            )
            raise wrong(f"metric `{label}`", metric, problem, [prompts[start].text])
    return {name: torch.cat([each[name] for each in found]) for name in names.first}


def _judged_batches(
    metric: Metric,
    images: Sequence[Tensor] | Tensor,
    prompts: Sequence[HeldOut],
    batch: int,
    label: str,
    ranks: Sharers | None,
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """The columns of each batch with its start, in order; on the first process alone."""

    def judged(start: int) -> dict[str, Tensor]:
        chosen = range(start, min(start + batch, len(prompts)))
        pictures = torch.stack([images[number] for number in chosen])
        return _columns_or_error(metric, pictures, prompts[start : chosen.stop], label)

    starts = range(0, len(prompts), batch)
    if ranks is None or ranks.size == 1:
        yield from ((start, judged(start)) for start in starts)
        return
    every = ranks.collected([judged(start) for start in starts[ranks.rank :: ranks.size]])
    for turn, start in enumerate(starts if every else ()):
        yield start, every[turn % ranks.size][turn // ranks.size]


@torch.no_grad()
def columns_of_set(
    metric: SetMetric, model: PictureSet, base: PictureSet, *, label: str
) -> dict[str, Tensor]:
    """Have a metric judge all pictures of a model together; (n,) float64 by column."""
    texts = [prompt.text for prompt in model.prompts]
    return metric_columns(metric, lambda: metric(model, base), texts, label=label)


def _columns_or_error(
    metric: Metric, images: Tensor, prompts: Sequence[HeldOut], label: str
) -> dict[str, Tensor]:
    def judge(images: Tensor, prompts: Sequence[HeldOut]) -> dict[str, Tensor]:
        texts = [HeldOutText(prompt) for prompt in prompts]
        return metric_columns(metric, lambda: metric(images, texts), texts, label=label)

    found, failed = run_metric(judge, images, prompts, stops=True)
    for failure in failed:
        together = len(failure.of) > 1 and not is_out_of_memory(failure.error)
        if together and isinstance(failure.error, ComponentError):
            failure.error.problem += "; each of these pictures alone is judged without error"
        raise failure.error
    return found[0]

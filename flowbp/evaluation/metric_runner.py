"""Calls metrics, checks what they return, and finds the picture at which one fails."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import attrs
import torch
from torch import Tensor

from flowbp.component_errors import ComponentError, calling, shown, wrong
from flowbp.evaluation.held_out import HeldOutText
from flowbp.evaluation.metric import Metric, PictureSet, SetMetric
from flowbp.evaluation.scoring import numbers
from flowbp.memory_errors import is_out_of_memory

if TYPE_CHECKING:
    from flowbp.evaluation.held_out import HeldOut

_LONGEST = 200
_Picture = TypeVar("_Picture")
_Found = TypeVar("_Found")


@attrs.frozen(eq=False)
class Outcome(Generic[_Picture, _Found]):
    """What judging some pictures together gave: a result or an error."""

    of: Sequence[_Picture]
    found: _Found | None
    error: Exception | None

    def result(self) -> _Found:
        """The result, or the error raised."""
        if self.error is not None:
            raise self.error
        return cast(_Found, self.found)


def outcomes(
    judge: Callable[[Tensor, Sequence[_Picture]], _Found],
    images: Tensor,
    of: Sequence[_Picture],
) -> Iterator[Outcome[_Picture, _Found]]:
    """Judge pictures together and, where that fails, each of them alone.

    Nothing is judged before it is taken from the iterator, so that a caller may stop, or free
    memory first.
    """
    together = _outcome(judge, images, of)
    yield together
    if together.error is None:
        return
    for number in range(len(of)):
        yield _outcome(judge, images[number : number + 1], of[number : number + 1])


def _outcome(
    judge: Callable[[Tensor, Sequence[_Picture]], _Found], images: Tensor, of: Sequence[_Picture]
) -> Outcome[_Picture, _Found]:
    # A frame of its own: clearing the frames of an error would end a generator's.
    try:
        return Outcome(of, judge(images, of), None)
    # A metric is code of others, and whatever it raises is its failure.
    except Exception as error:
        return Outcome(of, None, error)


def run_metric(
    judge: Callable[[Tensor, Sequence[_Picture]], _Found],
    images: Tensor,
    of: Sequence[_Picture],
    *,
    stops: bool,
    freed: Callable[[Exception], object] = lambda error: None,
) -> tuple[list[_Found], list[Outcome[_Picture, _Found]]]:
    """Judge pictures together or, where that fails, each alone; return results and failures.

    With `stops` the first failure is the only one. Otherwise every picture at which it fails is
    one, or all of them where it fails only together. `freed` is called with each error before more
    is judged, to free what its frames hold.
    """
    asked = outcomes(judge, images, of)
    together = next(asked)
    if together.error is None:
        return [together.result()], []
    freed(together.error)
    if stops and (len(of) == 1 or is_out_of_memory(together.error)):
        return [], [together]
    found, failed = [], []
    for alone in asked:
        if alone.error is None:
            found.append(alone.result())
        elif stops:
            return [], [alone]
        else:
            freed(alone.error)
            failed.append(alone)
    return found, failed or [together]


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
    for name, values in found.items():
        if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= _LONGEST:
            must = f"must name its columns by printable texts of at most {_LONGEST} characters"
            raise wrong(kind, metric, f"{must}, got {shown(name)}", texts)
        if called(name) in by_name:
            must = f"returned two columns that would be called {called(name)!r}"
            raise wrong(kind, metric, must, texts)
        try:
            by_name[called(name)] = numbers(name, values, texts)
        except ValueError as error:
            raise wrong(kind, metric, f"returned a wrong column: {error}", texts) from None
        for value, text in zip(by_name[called(name)].tolist(), texts, strict=True):
            if value in (torch.inf, -torch.inf):
                must = f"must return finite numbers in `{called(name)}`"
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

    images: Tensor
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
) -> dict[str, Tensor]:
    """Have a metric judge pictures, `batch` at a time; (n,) float64 by column."""
    names = ColumnNames()
    found: list[dict[str, Tensor]] = []
    for start in range(0, len(prompts), batch):
        chosen = range(start, min(start + batch, len(prompts)))
        pictures = torch.stack([images[number] for number in chosen])
        found.append(_asked(metric, pictures, prompts[chosen.start : chosen.stop], label))
        if not names.agree(found[-1]):
            problem = (
                f"returned the columns {', '.join(names.first) or 'none'} for one batch and "
                f"{', '.join(found[-1]) or 'none'} for another; return the same for every batch, "
                "NaN where one does not judge a picture"
            )
            raise wrong(f"metric `{label}`", metric, problem, [prompts[start].text])
    return {name: torch.cat([each[name] for each in found]) for name in names.first}


@torch.no_grad()
def columns_of_set(
    metric: SetMetric, model: PictureSet, base: PictureSet, *, label: str
) -> dict[str, Tensor]:
    """Have a metric judge all pictures of a model together; (n,) float64 by column."""
    texts = [prompt.text for prompt in model.prompts]
    return metric_columns(metric, lambda: metric(model, base), texts, label=label)


def _asked(
    metric: Metric, images: Tensor, prompts: Sequence[HeldOut], label: str
) -> dict[str, Tensor]:
    def judge(images: Tensor, prompts: Sequence[HeldOut]) -> dict[str, Tensor]:
        texts = [HeldOutText(prompt) for prompt in prompts]
        return metric_columns(metric, lambda: metric(images, texts), texts, label=label)

    found, failed = run_metric(judge, images, prompts, stops=True)
    for failure in failed:
        error = failure.error
        assert error is not None
        together = len(failure.of) > 1 and not is_out_of_memory(error)
        if together and isinstance(error, ComponentError):
            error.problem += "; each of these pictures alone is judged without error"
        raise error
    return found[0]

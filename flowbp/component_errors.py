"""What code of others raises or returns wrongly, in one sentence and with the frames of its own.

Rewards, metrics, judges, backbones, methods, optimizers and observers may be anybody's. Each is
called within `calling` or `during`, so that whatever goes wrong arrives as a `ComponentError`.
"""

from __future__ import annotations

import functools
import linecache
import sys
import sysconfig
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from torch import Tensor

from flowbp.memory_errors import is_out_of_memory
from flowbp.rank_errors import RankEndedError, RanksDifferError

_SHOWN, _SHORT = 4, 60
_OURS = Path(__file__).parent


class ComponentError(RuntimeError):
    """A component, maybe of others, failed or returned what it must not.

    Args:
        component: its kind and dotted path, such as ``the reward my_rewards:redness``.
        problem: what it did, such as ``raised KeyError: 'red'``.
        prompts: that it was called with; none where it has none.
    """

    def __init__(self, component: str, problem: str, prompts: Sequence[str] = ()) -> None:
        super().__init__(component, problem, tuple(prompts))
        self.component, self.problem, self.prompts = component, problem, tuple(prompts)
        self.caller: str | None = None
        self.stage: str | None = None

    def __str__(self) -> str:
        """One sentence: which component did what, in which stage and at which prompts."""
        places = [f"in {self.caller}"] if self.caller else []
        if self.stage:
            places.append(f"during {self.stage}")
        if self.prompts:
            each = [*dict.fromkeys(map(repr, self.prompts))]
            rest = f" and {len(each) - _SHOWN} more" if len(each) > _SHOWN else ""
            many = "s" if len(each) > 1 else ""
            places.append(f"at the prompt{many} {', '.join(each[:_SHOWN])}{rest}")
        where = f"; {', '.join(places)}" if places else ""
        return f"{self.component} {self.problem}{where}"


def dotted_path(component: Any) -> str:
    """The dotted path of a function, or of an object's class, as a configuration would name it."""
    while isinstance(component, functools.partial):
        component = component.func
    named = component if hasattr(component, "__qualname__") else type(component)
    return f"{getattr(named, '__module__', None) or '?'}:{named.__qualname__}"


def is_ours(component: Any) -> bool:
    """Whether a component is flowbp's own."""
    return dotted_path(component).partition(":")[0].partition(".")[0] == "flowbp"


@contextmanager
def calling(kind: str, component: Any, prompts: Sequence[str] = ()) -> Iterator[None]:
    """Raise whatever the `kind` (``reward``, ``metric `red` ``) raises as a `ComponentError`.

    Interrupts pass, and so does an error that says that memory ran out, as smaller work may fit.
    """
    try:
        yield
    except ComponentError as error:
        # One that this one calls, such as the reward of a metric.
        error.caller = error.caller or f"the {kind}"
        raise
    except BaseException as error:
        if passes(error):
            raise
        raise ComponentError(_named(kind, component), raised(error), prompts) from error


def wrong(kind: str, component: Any, problem: str, prompts: Sequence[str] = ()) -> ComponentError:
    """The error of a component that returned what it must not."""
    return ComponentError(_named(kind, component), problem, prompts)


@contextmanager
def during(stage: str) -> Iterator[None]:
    """Name the stage in which a component failed; whatever foreign code raised becomes an error.

    Foreign code is known by the frames that it left in the traceback. What was raised without any
    passes as it is.
    """
    try:
        yield
    except ComponentError as error:
        error.stage = error.stage or stage
        raise
    except BaseException as error:
        found = None if passes(error) else foreign_error(error)
        if found is None:
            raise
        found.stage = stage
        raise found from error


def foreign_error(error: BaseException) -> ComponentError | None:
    """What foreign code raised, as an error that names it; None if none was running."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__) if is_foreign(frame)]
    if not frames:
        return None
    first = frames[0]
    name = f"{first.f_globals.get('__name__', '?')}:{first.f_code.co_qualname}"
    return ComponentError(name.removesuffix(":<module>"), raised(error))


def raised(error: BaseException) -> str:
    """What is said of an error: its type, its text in one line and its notes."""
    text = " ".join("; ".join([str(error), *getattr(error, "__notes__", ())]).split())
    return f"raised {type(error).__name__}{f': {text}' if text else ''}"


def shown(value: Any) -> str:
    """A value that a component returned: shape and dtype of a tensor, else its type or value."""
    if isinstance(value, Tensor):
        return f"shape {tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    if value is None:
        return "None"
    text = repr(value)
    kind = type(value).__name__
    article = "an" if kind[0] in "aeiouAEIOU" else "a"
    return f"the {kind} {text}" if len(text) <= _SHORT else f"{article} {kind}"


def foreign_frames(error: BaseException) -> list[str]:
    """The frames of foreign code that an error went through, as a traceback has them."""
    return list(dict.fromkeys(_frames(error, set())))


def is_foreign(frame: Any) -> bool:
    """Whether a frame is of code that is neither flowbp's nor of what flowbp stands on.

    What is installed counts as that, unless it registers components by entry points.
    """
    name = frame.f_globals.get("__name__") or ""
    top, path = name.partition(".")[0], frame.f_code.co_filename
    if not top or top == "flowbp" or top in sys.stdlib_module_names:
        return False
    # `__main__` is ours under `python -m`.
    if Path(path).is_relative_to(_OURS) or path.startswith(("<frozen", "<attrs")):
        return False
    folders = {"site-packages", "dist-packages"} & set(Path(path).parts)
    library = Path(path).is_relative_to(sysconfig.get_paths()["stdlib"])
    return not (folders or library) or top in _registered()


def _named(kind: str, component: Any) -> str:
    path = dotted_path(component)
    return f"the {kind} ({path})" if kind.endswith("`") else f"the {kind} {path}"


def passes(error: BaseException) -> bool:
    """Whether an error passes as it is: an interrupt, the others' end, short memory, one named."""
    kinds = (ComponentError, KeyboardInterrupt, GeneratorExit, RankEndedError, RanksDifferError)
    return isinstance(error, kinds) or is_out_of_memory(error)


def _registered() -> set[str]:
    """The packages of distributions that register components of flowbp."""
    groups = [g for g in metadata.entry_points().groups if g.startswith("flowbp.")]
    points = (point for group in groups for point in metadata.entry_points(group=group))
    return {point.value.partition(":")[0].partition(".")[0] for point in points} - {"flowbp"}


def _frames(error: BaseException | None, seen: set[int]) -> Iterator[str]:
    if error is None or id(error) in seen:
        return
    seen.add(id(error))
    yield from _frames(error.__cause__, seen)
    for each in getattr(error, "exceptions", ()):
        yield from _frames(each, seen)
    for frame, line in traceback.walk_tb(error.__traceback__):
        if is_foreign(frame):
            code = frame.f_code
            where = f'  File "{code.co_filename}", line {line}, in {code.co_qualname}'
            source = linecache.getline(code.co_filename, line, frame.f_globals).strip()
            yield f"{where}\n    {source}" if source else where
    if isinstance(error, SyntaxError) and error.filename is not None:
        text = (error.text or "").strip()
        yield f'  File "{error.filename}", line {error.lineno}\n    {text}'

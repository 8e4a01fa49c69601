"""The score in a judge's answer."""

from __future__ import annotations

import re

_LOWEST, _HIGHEST = 1.0, 5.0
_SHOWN = 300
_SAID = re.compile(r"final\s+score[*_]*\s*:[\s*_]*", re.IGNORECASE)
# A whole number or decimal, perhaps out of 5; "4-5", "4.5.2", "4/10" and "4th" are none.
_NUMBER = re.compile(
    r"""(-?\d+(?:\.\d+)?)  (?:\s*/\s*5)?
        (?! [\d.,]*\d | \s*[-–/]\s*\d | [A-Za-z%] )""",
    re.VERBOSE,
)


class UnreadableAnswer(ValueError):
    """A judge's answer in which there is no score.

    Args:
        prompt: of the picture that was judged.
        answer: what the judge said.
        why: it cannot be read.

    Example:
        >>> print(UnreadableAnswer("a dog", "Lovely.", "it says no `Final Score:`"))
        the judge's answer for 'a dog' cannot be read, it says no `Final Score:`: 'Lovely.'
    """

    def __init__(self, prompt: str, answer: str, why: str) -> None:
        quoted = answer
        if len(answer) > 2 * _SHOWN:
            quoted = f"{answer[:_SHOWN]} … {answer[-_SHOWN:]}"
        super().__init__(f"the judge's answer for {prompt!r} cannot be read, {why}: {quoted!r}")
        self.prompt, self.answer = prompt, answer


def final_score(answer: str, *, prompt: str) -> float:
    """The number after ``Final Score:``.

    Args:
        answer: what the judge said.
        prompt: of the picture, for the message.

    Returns:
        From 1 to 5.

    Raises:
        UnreadableAnswer: no such number, several different ones, or one beyond the scale.

    Example:
        >>> final_score("It is a fine dog. **Final Score:** 4.5", prompt="a dog")
        4.5
    """
    said = [_NUMBER.match(answer, mark.end()) for mark in _SAID.finditer(answer)]
    if not said:
        raise UnreadableAnswer(prompt, answer, "it says no `Final Score:`")
    found = {None if number is None else float(number[1]) for number in said}
    if len(found) > 1:
        raise UnreadableAnswer(prompt, answer, "it says more than one `Final Score:`")
    (score,) = found
    if score is None:
        raise UnreadableAnswer(prompt, answer, "it says no number after `Final Score:`")
    if not _LOWEST <= score <= _HIGHEST:
        raise UnreadableAnswer(prompt, answer, f"{score:g} is not from 1 to 5")
    return score

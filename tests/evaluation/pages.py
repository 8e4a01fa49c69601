"""Pages for the tests of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from flowbp.evaluation import Report, Scale, ScoreRow, Scores, environment, render

from .samples import comparison, metrics

COUNT = 30
REWARDS = [(0.5, 0.5 + 0.01 * (i - 9)) for i in range(COUNT)]
VERDICTS = [(i % 3 == 0, i % 4 != 0) for i in range(COUNT)]
TEXTS = ["<script>alert('x')</script>", 'a "red" circle & more', "two squares"]
PROMPTS = [f"{TEXTS[i % 3]} {i}" for i in range(COUNT)]
HACKED = [
    {"step": 10 * i, "reward": 0.2 + 0.1 * i, "accuracy": a, "aesthetic": 5 + 0.1 * i}
    for i, a in enumerate((0.5, 0.6, 0.7, 0.55, 0.4))
]


def picture(side: int, row: ScoreRow) -> Tensor:
    source = torch.Generator().manual_seed(row.number + 1000 * len(row.model))
    return torch.rand(3, side, side, generator=source)


def report(
    judged: bool = True,
    side: int = 16,
    held_out: Sequence[Mapping[str, float]] = HACKED,
    **changes: object,
) -> Report:
    """A page of a run."""
    scores = comparison(
        REWARDS,
        VERDICTS if judged else None,
        kinds=["two_object", "counting"],
        prompts=PROMPTS,
    ).scores
    return Report(
        **{
            "title": "Shapes & <b>Bridge</b>",
            "subtitle": "150 steps",
            "scores": scores,
            "picture": lambda row: picture(side, row),
            "trained": {"after": ["reward"]},
            "metrics": metrics(40),
            "held_out": held_out,
            "held_out_each": [{n: [v] * 20 for n, v in row.items()} for row in held_out],
            "configuration": "reward: {source: 'https://example.org/<model>'}",
            "timings": {"training": 112.4, "one step": 0.734},
            "environment": environment(torch.device("cpu"), 11),
            **changes,
        }
    )


def several(side: int = 160) -> Report:
    """A page of three models, several metrics and seeds, one metric of one kind of prompt only."""
    source = torch.Generator().manual_seed(3)
    rows = []
    for strength, model in enumerate(("base", "aligned", "half </script>")):
        for seed in (0, 1):
            for number in range(12):
                noise = torch.randn(3, generator=source).tolist()
                kind = ("position", "colors")[number % 2]
                rows.append(
                    ScoreRow(
                        model=model,
                        number=number,
                        seed=seed,
                        prompt=PROMPTS[number],
                        kind=kind,
                        values={
                            "hpsv2": 0.25 + 0.05 * strength + 0.01 * noise[0],
                            "image_reward": 21.5 - strength + 0.1 * noise[1],
                            "geneval": float(noise[2] > 0),
                            **({"colour": 0.1 * noise[0]} if kind == "colors" else {}),
                        },
                    )
                )
    return report(
        scores=Scores(rows, scales={"geneval": Scale(verdict=True)}),
        side=side,
        trained={"aligned": ["hpsv2"], "half </script>": ["hpsv2"]},
        held_out=(),
    )


def page_of(which: str) -> str:
    """The HTML of a page by its name."""
    made = {"run": report, "large": lambda: report(side=160), "several": several}
    return render(made[which]())

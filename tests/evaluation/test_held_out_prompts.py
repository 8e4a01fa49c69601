from __future__ import annotations

from flowbp.evaluation import HeldOutPrompt, HeldOutText, spread


def test_a_held_out_text_is_a_text_that_keeps_its_prompt():
    text = HeldOutText(HeldOutPrompt("a circle", "single_object"))
    assert text == text.text == "a circle" and text.kind == "single_object"


def test_prompts_are_spread_over_kinds_by_their_share():
    prompts = [HeldOutPrompt(str(i), kind) for i, kind in enumerate("aaaabb")]
    assert [prompt.text for prompt in spread(prompts, 3)] == ["1", "3", "5"]

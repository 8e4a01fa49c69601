"""Rewards for the words that a prompt puts in quotes: how likely a recogniser reads them."""

from __future__ import annotations

from flowbp.rewards.words.easyocr import EasyOCR as EasyOCR
from flowbp.rewards.words.quoted import QuotedTextReward as QuotedTextReward
from flowbp.rewards.words.quoted import quoted_text as quoted_text
from flowbp.rewards.words.region import WHOLE_PICTURE as WHOLE_PICTURE
from flowbp.rewards.words.region import Region as Region
from flowbp.rewards.words.region import cut_out as cut_out
from flowbp.rewards.words.trocr import TrOCR as TrOCR

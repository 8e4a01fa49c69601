"""Model families behind the `Backbone` protocol; diffusers and transformers are imported late."""

from __future__ import annotations

from flowbp.adapters.backbone import Backbone as Backbone
from flowbp.adapters.backbone import Conditioning as Conditioning
from flowbp.adapters.clamp import Clamp as Clamp
from flowbp.adapters.clamp import hard_clamp as hard_clamp
from flowbp.adapters.clamp import returning_clamp as returning_clamp
from flowbp.adapters.decode import LatentDecoder as LatentDecoder
from flowbp.adapters.policy import DtypePolicy as DtypePolicy
from flowbp.adapters.sd3 import SD3Backbone as SD3Backbone
from flowbp.adapters.sd3_text import SD3Text as SD3Text
from flowbp.adapters.sd3_text import TextTower as TextTower
from flowbp.adapters.sd3_velocity import SD3Velocity as SD3Velocity
from flowbp.adapters.sigmas import scheduler_sigmas as scheduler_sigmas
from flowbp.adapters.text_encoders import CutPromptWarning as CutPromptWarning
from flowbp.adapters.text_encoders import TextEncoders as TextEncoders
from flowbp.adapters.text_encoders import WithTextEncoders as WithTextEncoders

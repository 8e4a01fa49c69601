"""Model families behind the `Backbone` protocol; diffusers and transformers are imported late."""

from __future__ import annotations

from flowbp.adapters.backbone import Backbone as Backbone
from flowbp.adapters.backbone import Conditioning as Conditioning
from flowbp.adapters.clamp import Clamp as Clamp
from flowbp.adapters.clamp import hard_clamp as hard_clamp
from flowbp.adapters.clamp import returning_clamp as returning_clamp
from flowbp.adapters.decode import LatentDecoder as LatentDecoder
from flowbp.adapters.diffusers_backbone import DiffusersBackbone as DiffusersBackbone
from flowbp.adapters.flux1 import Flux1Backbone as Flux1Backbone
from flowbp.adapters.flux1_text import Flux1Text as Flux1Text
from flowbp.adapters.flux1_velocity import Flux1Velocity as Flux1Velocity
from flowbp.adapters.flux2 import Flux2Backbone as Flux2Backbone
from flowbp.adapters.flux2_text import Flux2Text as Flux2Text
from flowbp.adapters.flux2_velocity import Flux2Velocity as Flux2Velocity
from flowbp.adapters.guidance_advice import WithGuidanceAdvice as WithGuidanceAdvice
from flowbp.adapters.loading import Layout as Layout
from flowbp.adapters.loading import load_model as load_model
from flowbp.adapters.loading import load_pipeline as load_pipeline
from flowbp.adapters.lora import Adaptable as Adaptable
from flowbp.adapters.lora import Lora as Lora
from flowbp.adapters.lora_export import save_lora as save_lora
from flowbp.adapters.plain_loading import WithLoading as WithLoading
from flowbp.adapters.policy import FLOAT32 as FLOAT32
from flowbp.adapters.policy import DtypePolicy as DtypePolicy
from flowbp.adapters.reference import Reference as Reference
from flowbp.adapters.reference import WithReference as WithReference
from flowbp.adapters.reference import reference_of as reference_of
from flowbp.adapters.sd3 import SD3Backbone as SD3Backbone
from flowbp.adapters.sd3_text import SD3Text as SD3Text
from flowbp.adapters.sd3_velocity import SD3Velocity as SD3Velocity
from flowbp.adapters.sigmas import Shift as Shift
from flowbp.adapters.sigmas import empirical_shift as empirical_shift
from flowbp.adapters.sigmas import linear_shift as linear_shift
from flowbp.adapters.sigmas import scheduler_sigmas as scheduler_sigmas
from flowbp.adapters.text_encoders import CutPromptWarning as CutPromptWarning
from flowbp.adapters.text_encoders import TextEncoders as TextEncoders
from flowbp.adapters.text_encoders import WithTextEncoders as WithTextEncoders
from flowbp.adapters.text_tower import TextTower as TextTower
from flowbp.adapters.tuning import Full as Full
from flowbp.adapters.tuning import Tuning as Tuning
from flowbp.adapters.unscale import Unscale as Unscale
from flowbp.adapters.unscale import batch_normalised as batch_normalised
from flowbp.adapters.unscale import scaled as scaled

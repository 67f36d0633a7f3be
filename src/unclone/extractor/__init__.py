"""From a noisy response to a secret and back: entropy accounting, debiasing, codes, the fuzzy extractor."""

from unclone.extractor.fuzzy import Generated, generate, reproduce, reproduce_many
from unclone.extractor.upkeep import Correction, measure, regenerate

__all__ = ["Correction", "Generated", "generate", "measure", "regenerate", "reproduce", "reproduce_many"]

"""From a noisy response to a secret and back: entropy accounting, debiasing, codes, the fuzzy extractor."""

from unclone.extractor.fuzzy import Generated, generate, reproduce, reproduce_many

__all__ = ["Generated", "generate", "reproduce", "reproduce_many"]

"""Key providers, which are not PUFs: ``tpm:`` (TPM 2.0) and ``passphrase:`` (for development)."""

from unclone.providers.base import KeyProvider, Provided, find_provider, list_providers

__all__ = ["KeyProvider", "Provided", "find_provider", "list_providers"]

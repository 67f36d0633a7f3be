"""Results of ML-KEM-768 for vectors: encapsulation draws its own randomness, so its results are kept in a file.

``encapsulations.json``, by 16 bytes of the encapsulation key's SHA-256; of test keys, since the secrets are public.
"""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PublicKey

FILE = Path(__file__).with_suffix(".json")


def encapsulation(public: bytes, *, draw_missing: bool = False) -> tuple[bytes, bytes]:
    """(ciphertext, shared secret) kept for a hybrid public key; ``draw_missing`` makes and keeps one for a new key."""
    kept = json.loads(FILE.read_text()) if FILE.exists() else {}
    name = hashlib.sha256(public[:1184]).hexdigest()[:32]
    if name not in kept:
        if not draw_missing:
            raise LookupError(f"no encapsulation is kept for {name}: run make_vectors.py --new-encapsulations")
        secret, ciphertext = MLKEM768PublicKey.from_public_bytes(public[:1184]).encapsulate()
        kept[name] = [base64.b64encode(ciphertext).decode(), base64.b64encode(secret).decode()]
        FILE.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
    ciphertext, secret = (base64.b64decode(text) for text in kept[name])
    return ciphertext, secret

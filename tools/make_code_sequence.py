"""Write src/unclone/extractor/sequence.py: the order in which pair codes take their message positions.

    python tools/make_code_sequence.py > src/unclone/extractor/sequence.py

The order is data, not computed at enrolment: floating-point ties could otherwise give two machines two codes, and the
reuse-safe debiasing wants the same one. Each length is ordered by density evolution on the channel it is meant to be
just able to carry 128 bits over: differing pairs of cells with share of ones p, at bit error rate e.
"""

import base64
import textwrap

import numpy as np

from unclone.extractor.codes.construction import bit_error_rates

LONGEST = 528
NOMINAL = {8: (0.02, 0.5), 9: (0.05, 0.5), 10: (0.10, 0.5), 11: (0.18, 0.5), 12: (0.25, 0.5), 13: (0.25, 0.7)}


def channel(e, p):
    """Differing pairs: both cells right, both wrong, or one of them (an erasure); the other pairs are erasures."""
    fall, rise = e / (2 * p), e / (2 * (1 - p))
    right, wrong = (1 - fall) * (1 - rise), fall * rise
    decisive = 2 * p * (1 - p) * (right + wrong)
    return np.array([wrong / (right + wrong), 0.5]), np.array([decisive, 1 - decisive])


def main():
    print('"""Message positions of the pair codes, most reliable first.\n')
    print('Made by tools/make_code_sequence.py; do not edit.\n"""\n')
    print('from typing import Final\n\n__all__ = ["SEQUENCE"]\n')
    print("# Logarithm of the length -> positions, big-endian 16 bit, base64.\nSEQUENCE: Final[dict[int, str]] = {")
    for m, (e, p) in NOMINAL.items():
        with np.errstate(divide="ignore"):
            rates = bit_error_rates(m, 1 << m, "first", *channel(e, p))
        order = np.lexsort((-np.arange(1 << m), rates))[:LONGEST]
        print(f"    {m}: (")
        for line in textwrap.wrap(base64.b64encode(order.astype(">u2").tobytes()).decode(), 104):
            print(f'        "{line}"')
        print("    ),")
    print("}")


if __name__ == "__main__":
    main()

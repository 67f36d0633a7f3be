"""PUF sources: anything with one method, ``evaluate(challenge) -> response``.

``open_source("sim:sram?seed=7")`` opens one by its address; the scheme before the colon names an entry point of
the group ``unclone.sources``, so a plug-in package comes in by the same door as the built-in sources.
"""

from unclone.puf.base import PUF, SourceURI, open_source

__all__ = ["PUF", "SourceURI", "open_source"]

"""Where recorded silicon and labelled data lie, if anywhere."""

from __future__ import annotations

import os
from pathlib import Path


def data_folder() -> Path:
    """UNCLONE_DATA, else ../shared/data beside the project."""
    return Path(os.environ.get("UNCLONE_DATA", Path(__file__).parent.parent.parent / "shared" / "data"))

"""Version of the package; the file formats have versions of their own."""

__version__ = "0.1.0"

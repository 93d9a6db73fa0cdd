"""Chat with an open language model from a notebook, a browser, a script or a terminal."""

from .settings import VERSION as __version__

__all__ = ["__version__"]

"""Chat with an open language model from a notebook, a browser, a script or a terminal."""

from .settings import VERSION

__all__ = ["__version__"]
__version__ = VERSION

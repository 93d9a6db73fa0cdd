"""Chat with an open language model from a notebook, a browser, a script or a terminal."""

__version__ = "0.1.0"

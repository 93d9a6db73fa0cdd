"""The pipeline over a server elsewhere: this project's own, or any that speaks OpenAI's API."""

from .address import Address, parse_address
from .service import RemoteChat

__all__ = ["Address", "RemoteChat", "parse_address"]

"""What a device does with a message."""

from clients.client import NLUClient, app

__all__ = ["NLUClient", "app"]

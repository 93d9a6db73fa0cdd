"""The wire: typed requests and replies, parsed at the door."""

"""Batched generation over token ids; knows no text, no HTTP and no notebook."""

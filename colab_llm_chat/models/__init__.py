"""Where a model comes from and how it gets onto the hardware."""

"""Kernels in C++ for what PyTorch computes slowly for a few rows on a CPU, and where a model uses them."""

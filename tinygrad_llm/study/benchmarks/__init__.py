"""Benchmarks: kernels, training, decoding and tokenizing against the machine's limits, and beside other people's."""

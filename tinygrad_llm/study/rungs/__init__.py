"""The ladder: the same gradient at every rung, from primitives to the kernel, measured."""

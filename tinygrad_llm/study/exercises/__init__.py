"""Exercises: an operation with its vjp left out, made from the library itself, and the check of an answer."""

"""Studying gradients: from a number back to the algebra behind it."""

"""The explorer: one training step as a page, the backward pass beside the forward pass."""

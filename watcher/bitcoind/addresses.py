"""Descriptors and their addresses, as the node derives them."""

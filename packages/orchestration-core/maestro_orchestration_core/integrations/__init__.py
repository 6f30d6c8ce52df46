"""Adapters to sibling packages, each behind its extra."""

"""Checks that keep the packages uniform: metadata, files, README sections."""

"""Experiments: one question a file. Each returns rows, and draws its figure from the rows alone."""

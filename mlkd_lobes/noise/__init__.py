"""Noise: recordings of noise corpora, generated noise, mixing."""

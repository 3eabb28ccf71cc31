"""Dictionaries of features: sparse autoencoders of the residual stream, and vectors taken apart into their latents."""

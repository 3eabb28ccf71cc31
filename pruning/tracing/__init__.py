"""Causal tracing: the subject is hidden, parts say again what they said before, and what comes back is measured."""

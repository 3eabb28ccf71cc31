"""A batch of prompts under gates: losses and gradients."""

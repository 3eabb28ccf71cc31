"""Circuits of some tasks on other tasks: the smallest that will do, and every circuit on every task's prompts."""

"""What heads do: how they attend and what they say to the logits, captured on prompts, and named by stated rules."""

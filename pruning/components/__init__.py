"""What single writers are worth: each alone out of the full model, under every ablation; constants for each."""

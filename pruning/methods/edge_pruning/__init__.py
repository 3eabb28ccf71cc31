"""Edge Pruning: gates trained by gradient descent (Bhaskar et al., 2024)."""

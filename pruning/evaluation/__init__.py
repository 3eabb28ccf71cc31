"""How well a circuit does what the model does: measures, intervals, baselines."""

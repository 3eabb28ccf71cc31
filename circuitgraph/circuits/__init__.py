"""What was found: circuits, their files and where they come from."""

"""Methods × tasks × seeds on the same graph, prompts and measures, cell by cell."""

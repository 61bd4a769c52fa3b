"""Claims of the papers on vision models."""

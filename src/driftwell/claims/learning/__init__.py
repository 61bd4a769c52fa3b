"""Claims on local rules and optimizers."""

"""Training: a loop one can read, run folders that survive being killed, checkpoints, resuming."""

"""Claims on graph networks that settle."""

"""Core: state trees, results and status, errors, keyed noise, paper cards. Imports torch only."""

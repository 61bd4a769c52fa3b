"""Claims about Langevin machines and the random networks behind them."""

"""Claims about learned proximal operators."""

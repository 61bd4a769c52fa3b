"""Numbers as people read them: as many digits as their error carries."""

from __future__ import annotations

import math

DASH = "–"


def measured(value: float | None, error: float | None = None, digits: int = 3) -> str:
    """A number with its error, both to the error's second figure; a dash where there is none.

    Args:
        value: the number.
        error: its standard error, or None.
        digits: significant figures without an error.

    Example:
        >>> measured(0.0314, 0.0021), measured(float("nan")), measured(-1392.07, digits=4)
        ('0.0314 ± 0.0021', '–', '−1392')
    """
    if value is None or not math.isfinite(value):
        return DASH
    places = _places(error)
    if places is None or error is None:
        return _signed(f"{value:.{digits}g}")
    return _signed(f"{value:.{places}f} ± {error:.{places}f}")


def rounded(value: float, error: float | None = None, digits: int = 3) -> str:
    """A number to the second figure of its error, without showing the error.

    Example:
        >>> rounded(0.000385, 0.0042), rounded(0.0601)
        ('0.0004', '0.0601')
    """
    return measured(value, error, digits).partition(" ±")[0]


def spaced(n: int) -> str:
    """A whole number with thin spaces between thousands.

    Example:
        >>> spaced(24000).replace("\u202f", "_")
        '24_000'
    """
    return f"{n:,}".replace(",", "\u202f")


def _places(error: float | None) -> int | None:
    if error is None or not math.isfinite(error) or error <= 0.0:
        return None
    return max(0, 1 - math.floor(math.log10(float(f"{error:.1e}"))))


def _signed(text: str) -> str:
    return text.replace("-", "−")

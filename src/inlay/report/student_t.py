"""Student's distribution, for 95 % intervals from few values."""

from .classification import Z_95 as Z

# For 1, 2, … degrees of freedom.
_FIRST = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)


def student_t(freedom: int) -> float:
    """The 97.5 % quantile, to three digits (beyond the table by Cornish and Fisher's expansion about the normal's)."""
    if 1 <= freedom <= len(_FIRST):
        return _FIRST[freedom - 1]
    return Z + (Z**3 + Z) / (4 * freedom) + (5 * Z**5 + 16 * Z**3 + 3 * Z) / (96 * freedom**2)

"""Quantiles: Student's and the normal distribution's, for two-sided intervals, and Fisher's of a ratio of variances."""


def student_t(freedom: int, level: float = 0.95) -> float:
    from scipy.special import stdtrit  # when a report is written, not when its module is loaded

    return float(stdtrit(freedom, (1 + level) / 2))


def normal_z(level: float = 0.95) -> float:
    from scipy.special import ndtri  # likewise

    return float(ndtri((1 + level) / 2))


def fisher_f(freedom: int, others: int, level: float) -> float:
    """Above which the ratio of two equal variances is found with a chance of 1 - level."""
    from scipy.special import fdtri  # likewise

    return float(fdtri(freedom, others, level))

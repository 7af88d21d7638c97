"""Quantiles for two-sided intervals: Student's from few values, the normal distribution's from many."""


def student_t(freedom: int, level: float = 0.95) -> float:
    from scipy.special import stdtrit  # when a report is written, not when its module is loaded

    return float(stdtrit(freedom, (1 + level) / 2))


def normal_z(level: float = 0.95) -> float:
    from scipy.special import ndtri  # likewise

    return float(ndtri((1 + level) / 2))

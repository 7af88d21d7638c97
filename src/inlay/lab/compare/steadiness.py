"""Which methods' scores differ from seed to seed more than the others' do: one of them may well disappoint next time.

Cochran's test for an outlying variance (Cochran 1941, Annals of Eugenics 11): the largest variance against what the
others have in common, an F ratio, at 95 % for however many there are. It is repeated without the method that was
found. Two that are equally unsteady can hide each other.
"""

import statistics
from collections.abc import Mapping, Sequence

from ...stats import fisher_f

_LEVEL = 0.95


def unsteady(scores: Mapping[str, Sequence[float]]) -> list[str]:
    """Labels, the least steady first; `scores` are of each label's seeds. Those with one seed do not tell."""
    variances = {label: statistics.variance(found) for label, found in scores.items() if len(found) > 1}
    freedoms = {label: len(scores[label]) - 1 for label in variances}
    found: list[str] = []
    while len(variances) > 1:
        label = max(variances, key=variances.__getitem__)
        largest, level = variances.pop(label), 1 - (1 - _LEVEL) / (len(variances) + 1)
        freedom = sum(freedoms[other] for other in variances)
        common = sum(freedoms[other] * variance for other, variance in variances.items()) / freedom
        if largest <= common * fisher_f(freedoms[label], freedom, level):
            break
        found.append(label)
    return found

"""A host that runs on trained copies of its own parameters, so that its work is done once.

A `Replacement` edits what a linear layer gives and leaves the layer to run for nothing, which serves single rows of a
batch; here the copies, rounded to the base's dtype, stand in for the parameters of any host whose weight is trained.
"""

from ...attached.replacement import Replacement
from ...models.weights import Host


class Retrained(Replacement):
    def edits_output(self, host: Host) -> bool:
        return "weight" not in self.names and super().edits_output(host)

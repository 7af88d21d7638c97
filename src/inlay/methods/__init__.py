"""Every method, by the name used in code, on the command line and in config files."""

from types import ModuleType

from .. import elsewhere
from ..core.method import Method
from ..registry import Registry
from . import additive, full, own, prompts, reparameterized, selective

METHODS = Registry[type[Method]](
    "method",
    group="inlay.methods",
    of=Method,
    own=(thing for thing in vars(own).values() if isinstance(thing, type)),
    elsewhere=elsewhere.METHODS,
)

# Where each family is explained, in the module's docstring.
FAMILIES: dict[str, ModuleType] = {
    "baseline": full,
    "selective": selective,
    "additive": additive,
    "reparameterized": reparameterized,
    "prompts": prompts,
}

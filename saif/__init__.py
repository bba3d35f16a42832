"""saif: find, calibrate and steer instruction latents of a language model.

Importing this package costs nothing; what it offers, and torch with it, loads at first use.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saif.api import calibrate as calibrate
    from saif.api import compare as compare
    from saif.api import evaluate as evaluate
    from saif.api import identify as identify
    from saif.api import list_presets as list_presets
    from saif.api import load_model as load_model
    from saif.api import load_preset as load_preset
    from saif.api import steering as steering
    from saif.errors import SaifError as SaifError
    from saif.presets.library import Library as Library

__version__ = "0.2.0"

_HOMES = {"SaifError": "saif.errors", "Library": "saif.presets.library"}
"""Where a name comes from, if it isn't `saif.api`."""

__all__ = [
    "Library",
    "SaifError",
    "__version__",
    "calibrate",
    "compare",
    "evaluate",
    "identify",
    "list_presets",
    "load_model",
    "load_preset",
    "steering",
]


def __getattr__(name: str) -> Any:
    """The exported name, imported when it is first asked for."""
    if name not in __all__:
        raise AttributeError(f"module 'saif' has no attribute '{name}'")
    from importlib import import_module

    value = getattr(import_module(_HOMES.get(name, "saif.api")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

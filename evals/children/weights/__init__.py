"""What answers lm-eval's requests with the weights of a model folder."""

import sys

# transformers imports these when they are installed, for functions that are never called here: three CPU-seconds at
# every start. A module that is None counts as not installed; where transformers is there already, nothing is gained.
_COSTLY = ("mistral_common", "sklearn", "accelerate")
_HIDDEN = [name for name in _COSTLY if name not in sys.modules and "transformers" not in sys.modules]
for _name in _HIDDEN:
    sys.modules[_name] = None  # type: ignore[assignment]


def show_hidden() -> None:
    """Let the hidden packages be imported again: a task's own code may score with them."""
    for name in _HIDDEN:
        if name in sys.modules and sys.modules[name] is None:
            del sys.modules[name]

"""The child process that scores weights with lm-eval."""

import sys

# transformers imports these when they are installed, for functions that are never called here: three CPU-seconds at
# every start. A module that is None counts as not installed.
for _name in ("mistral_common", "sklearn", "accelerate"):
    sys.modules.setdefault(_name, None)  # type: ignore[arg-type]

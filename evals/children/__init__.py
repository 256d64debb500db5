"""Programs that run in a process of their own; heavy libraries are imported here and nowhere else in this room."""

import sys

# transformers imports these when they are installed, for functions that are never called here: four CPU-seconds a
# start. A module that is None counts as not installed.
for _name in ("mistral_common", "sklearn", "accelerate"):
    sys.modules.setdefault(_name, None)  # type: ignore[arg-type]

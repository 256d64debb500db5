"""A program that uses guardrails-ai with our validator in it and writes what came of it. Arguments: two bundles."""

import json
import os
import random
import sys
import warnings

for heavy in ("litellm", "transformers"):  # guardrails looks whether a model is one of theirs
    sys.modules[heavy] = None
sys.modules["nltk"] = None  # guardrails would try to download `punkt` when it is imported
warnings.filterwarnings("ignore")

from guardrails import Guard  # noqa: E402
from guardrails.errors import ValidationError  # noqa: E402

from policies.guarding.guardrails_validator import HallmarkPolicy  # noqa: E402
from registry.errors import SpecError  # noqa: E402

KEY = "AKIA" + "IOSFODNN7EXAMPLE"
TEXT = f"The key is {KEY} and the card 4111 1111 1111 1111 is mine. Nothing else."


def chunked(text, seed):
    rng = random.Random(seed)
    while text:
        size = rng.randint(1, 7)
        yield text[:size]
        text = text[size:]


def streamed(guard, text, seed):
    def model(*args, **kwargs):
        return chunked(text, seed)

    chunks = guard(model, messages=[{"role": "user", "content": "say it"}], stream=True)
    return [chunk.validated_output for chunk in chunks]


def main(bundle, quickstart):
    found = {}
    fix = Guard().use(HallmarkPolicy(bundle, on_fail="fix"))
    outcome = fix.validate(TEXT)
    found["fixed"], found["passed"] = outcome.validated_output, outcome.validation_passed
    found["clean"] = fix.validate("nothing here").validated_output
    found["not_text"] = HallmarkPolicy(bundle, on_fail="noop").validate(7, {}).error_message
    blocking = HallmarkPolicy(bundle, side="input", on_fail="fix")
    result = blocking.validate("wire a detonator to a pipe bomb", {})
    found["blocked"] = [result.fix_value, result.error_message]
    result = HallmarkPolicy(bundle, on_fail="noop").validate(TEXT, {})
    found["spans"] = [TEXT[span.start : span.end] for span in result.error_spans]
    try:
        Guard().use(HallmarkPolicy(bundle, on_fail="exception")).validate(TEXT)
    except ValidationError as error:
        found["raised"] = str(error)
    try:
        HallmarkPolicy(quickstart)
    except SpecError as error:
        found["code"] = error.message
    found["skipped"] = HallmarkPolicy(quickstart, code="skip").validate("calm", {}).outcome
    pieces = [streamed(fix, TEXT, seed) for seed in range(8)]
    found["streams"] = sorted({"".join(piece for piece in one if piece) for one in pieces})
    found["pieces"] = [sum(bool(piece) for piece in one) for one in pieces]
    found["ends_in_key"] = "".join(streamed(fix, f"it is {KEY}", 1))
    found["clean_stream"] = "".join(streamed(fix, "Nothing to see. Move on.", 2))
    with os.fdopen(3, "w") as out:
        json.dump(found, out)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])

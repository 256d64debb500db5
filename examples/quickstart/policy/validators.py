"""A guardrails-ai validator written for this bundle: answers do not shout."""

from typing import Any

from guardrails.validators import ErrorSpan, FailResult, PassResult, ValidationResult, Validator, register_validator


@register_validator(name="quickstart/no-shouting", data_type="string")
class NoShouting(Validator):
    """Fails when a text has at least `letters` letters and more than `share` of them are capitals."""

    def __init__(self, share: float = 0.7, letters: int = 40, on_fail: Any = None) -> None:
        super().__init__(on_fail=on_fail, share=share, letters=letters)
        self.share, self.letters = share, letters

    def _validate(self, value: Any, metadata: dict[str, Any]) -> ValidationResult:
        letters = [char for char in value if char.isalpha()]
        capitals = sum(char.isupper() for char in letters)
        if len(letters) < self.letters or capitals <= self.share * len(letters):
            return PassResult()
        return FailResult(
            error_message=f"{capitals} of {len(letters)} letters are capitals",
            error_spans=[ErrorSpan(start=0, end=len(value), reason="shouting")],
        )

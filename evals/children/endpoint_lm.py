"""An OpenAI-compatible endpoint as what answers lm-eval's requests."""

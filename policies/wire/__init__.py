"""OpenAI's wire shapes: what may be in a request, what may be in an answer."""

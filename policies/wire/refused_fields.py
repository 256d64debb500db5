"""Fields that callers know from OpenAI or the engine and that this endpoint does not take, each with its reason.

A field that no request type lists is refused whether or not it stands here; here is only what the caller is told.
"""

from __future__ import annotations

_TEMPLATE = "the template is part of what was certified"
_OPERATOR = "it belongs to the engine's operator"
_PROBABILITIES = "token probabilities would spell out text past the output rules"
_TOKEN_IDS = "token ids are not a surface of this endpoint"  # noqa: S105 - not a password
_SPELLED = "token ids would spell out text past the output rules"
_MEDIA = "only text goes in and out"
_STATELESS = "the endpoint keeps no conversations: send the whole input"
_POLICY = "the policy sets it"
_TOKENS = "how text becomes tokens is part of what was certified"
_ECHO = "it would return text that no output rule expects"
_HOSTED = "the endpoint runs no tools: offer functions and run them yourself"

REFUSED_FIELDS: dict[str, str] = {
    "add_generation_prompt": _TEMPLATE,
    "add_special_tokens": _TOKENS,
    "allowed_token_ids": _TOKEN_IDS,
    "audio": _MEDIA,
    "bad_words": _POLICY,
    "best_of": "one answer is made for each that is returned",
    "cache_salt": "the endpoint sets it for each caller",
    "chat_template": _TEMPLATE,
    "chat_template_kwargs": _TEMPLATE,
    "context_management": _STATELESS,
    "continue_final_message": "an answer starts with the certified template",
    "conversation": _STATELESS,
    "background": _STATELESS,
    "documents": _TEMPLATE,
    "ec_transfer_params": _OPERATOR,
    "echo": _ECHO,
    "embed_dtype": "embeddings are `float` or `base64` of 32-bit floats",
    "enable_response_messages": _ECHO,
    "endianness": "embeddings are `float` or `base64` of 32-bit floats",
    "function_call": "functions are offered as `tools`",
    "functions": "functions are offered as `tools`",
    "ignore_eos": "an answer ends where the model ends it",
    "include": "nothing beyond the answer is kept that could be included",
    "include_reasoning": _TEMPLATE,
    "include_stop_str_in_output": "an answer ends before a stop string",
    "kv_transfer_params": _OPERATOR,
    "length_penalty": "beam search is not offered",
    "logit_bias": _TOKEN_IDS,
    "logprob_token_ids": _PROBABILITIES,
    "logprobs": _PROBABILITIES,
    "max_tool_calls": _HOSTED,
    "media_io_kwargs": _MEDIA,
    "mm_payload": _MEDIA,
    "mm_processor_kwargs": _MEDIA,
    "modalities": _MEDIA,
    "moderation": "the bundle's rules are the moderation",
    "padding": _TOKENS,
    "prediction": "predicted outputs are not offered",
    "previous_input_messages": _STATELESS,
    "previous_response_id": _STATELESS,
    "priority": _OPERATOR,
    "prompt": "no prompts are kept: send the text itself",
    "prompt_embeds": "only text can be checked by the input rules",
    "prompt_logprobs": _PROBABILITIES,
    "reasoning_effort": _TEMPLATE,
    "repetition_detection": _OPERATOR,
    "request_id": "the endpoint gives every request its id",
    "return_mm_kwargs": _MEDIA,
    "return_prompt_text": _ECHO,
    "return_token_ids": _SPELLED,
    "return_token_offsets": _SPELLED,
    "return_tokens_as_token_ids": _SPELLED,
    "routed_experts_prompt_start": _OPERATOR,
    "session_id": _OPERATOR,
    "skip_special_tokens": _TOKENS,
    "spaces_between_special_tokens": _TOKENS,
    "stop_token_ids": _TOKEN_IDS,
    "store": "no answers are kept for callers",
    "stream_interval": _OPERATOR,
    "suffix": "the middle of a text is asked for as a completion",
    "thinking_token_budget": _TEMPLATE,
    "top_logprobs": _PROBABILITIES,
    "truncate_prompt_tokens": "an input is taken whole or not at all",
    "truncation": "an input is taken whole or not at all",
    "truncation_side": "an input is taken whole or not at all",
    "use_activation": _OPERATOR,
    "use_beam_search": "beam search is not offered",
    "verbosity": _TEMPLATE,
    "vllm_xargs": _OPERATOR,
    "watermarking": _OPERATOR,
    "web_search_options": _HOSTED,
}

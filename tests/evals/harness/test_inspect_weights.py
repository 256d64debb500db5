"""Weights in process as a chat model: the folder's template and defaults, stops, tools, draws that can be repeated."""

import json
import shutil

import pytest

from evals.harness.inspect import Inspect
from evals.harness.protocol import Bench
from evals.targets import WeightsTarget
from tests.evals.harness.inspect_cases import TASKS, due, instrument, kpi

pytestmark = pytest.mark.slow
TEMPLATE = (
    "{% if tools %}{{ tools[0].function.name }} {% endif %}"
    "{% for message in messages %}<s>{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant: {% endif %}"
)


@pytest.fixture(scope="module")
def chatty(tiny_model, tmp_path_factory):
    """The tiny model with a chat template."""
    folder = shutil.copytree(tiny_model, tmp_path_factory.mktemp("chatty") / "model")
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


@pytest.fixture(scope="module")
def generator(chatty):
    """The tiny model with a chat template, loaded."""
    from evals.children.generator import Generator

    return Generator(chatty)


def user(text="value"):
    return [{"role": "user", "content": text}]


def text_of(answer):
    status, data = answer
    assert status == 200, data
    return data["choices"][0]["message"]["content"]


def test_an_answer_is_what_the_weights_say_after_the_template(generator, chatty):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    status, data = generator.complete({"messages": user(), "max_tokens": 6, "temperature": 0.0})
    tokenizer = AutoTokenizer.from_pretrained(chatty)
    model = AutoModelForCausalLM.from_pretrained(chatty, dtype=torch.float32).eval()
    ids = tokenizer("<s>user: value\n<s>assistant: ", add_special_tokens=False)["input_ids"]
    assert status == 200
    assert data["usage"] == {"prompt_tokens": len(ids), "completion_tokens": 6}
    assert data["choices"][0]["finish_reason"] == "length"
    said = []
    for _ in range(6):
        with torch.inference_mode():
            said.append(int(model(torch.tensor([ids + said])).logits[0, -1].argmax()))
    assert text_of((status, data)) == tokenizer.decode(said, skip_special_tokens=True)


def test_a_draw_is_repeated_by_its_seed_or_by_its_number(generator):
    def draw(repeat=0, **more):
        body = {"messages": user(), "max_tokens": 8, "temperature": 1.0, **more}
        return text_of(generator.complete(body, repeat))

    assert draw() == draw()
    assert draw(repeat=1) != draw()
    assert draw(seed=4) == draw(seed=4, repeat=3)


def test_a_stop_text_ends_an_answer_and_is_not_part_of_it(generator):
    whole = text_of(generator.complete({"messages": user(), "max_tokens": 12, "temperature": 0.0}))
    stop = whole[3:5]
    status, data = generator.complete({"messages": user(), "max_tokens": 12, "temperature": 0.0, "stop": [stop]})
    assert text_of((status, data)) == whole[: whole.index(stop)]
    assert data["choices"][0]["finish_reason"] == "stop"


def test_what_it_cannot_do_is_refused(generator):
    assert generator.complete({"messages": user(), "structured_outputs": {}})[0] == 400
    status, data = generator.complete({"messages": user("value " * 200)})
    assert (status, data["error"]["code"]) == (400, "context_length_exceeded")


def test_the_system_prompt_of_the_candidate_replaces_any_other(generator, chatty):
    from evals.children.generator import Generator

    ruled = Generator(chatty, system_prompt="index")
    body = {"max_tokens": 8, "temperature": 0.0}
    other = [{"role": "system", "content": "other"}, *user()]
    same = [{"role": "system", "content": "index"}, *user()]
    assert text_of(ruled.complete({"messages": other, **body})) == text_of(
        generator.complete({"messages": same, **body})
    )


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('so <tool_call>{"name": "f", "arguments": {"x": 1}}</tool_call>', [("f", '{"x": 1}')]),
        ('[TOOL_CALLS] [{"name": "f", "arguments": {}}, {"name": "g", "arguments": {"y": 2}}]',
         [("f", "{}"), ("g", '{"y": 2}')]),
        ("<tool_call>{broken</tool_call>", [("unknown", "{{broken")]),
        ("plain words", []),
    ],
)  # fmt: skip
def test_tool_calls_are_found_in_words(text, found):
    from evals.children.generator import _tool_calls

    assert [(call["function"]["name"], call["function"]["arguments"]) for call in _tool_calls(text)] == found


def test_random_weights_are_another_model_and_the_same_one_each_time(generator, chatty):
    from evals.children.generator import Generator

    body = {"messages": user(), "max_tokens": 12, "temperature": 0.0}
    null = [text_of(Generator(chatty, random_seed=7).complete(body)) for _ in range(2)]
    assert null[0] == null[1] != text_of(generator.complete(body))


def test_a_task_is_measured_on_weights_and_nothing_is_generated_twice(chatty, tmp_path):
    (tmp_path / "suite" / "tasks").mkdir(parents=True)
    (tmp_path / "suite" / "tasks" / "cases.py").write_text(TASKS)
    (tmp_path / "scratch").mkdir()
    of, told, stages = instrument(kpi(endpoint="weights")), [], []
    session = Inspect().open(Bench(
        WeightsTarget(chatty, {"weights": "w"}), tmp_path / "suite", tmp_path / "answers", tmp_path / "scratch",
        lambda stage, *_: stages.append(stage), spend=lambda tokens, calls: told.append(tokens),
    ))  # fmt: skip
    try:
        (_, first), *_ = session.measure([due(of)])
        (_, again), *_ = session.measure([due(of)])
    finally:
        session.close()
    assert sorted(first, key=str) == sorted(again, key=str)
    assert (len(told), stages.count("loading model")) == (4, 2)  # loading is told when it begins and when it is done
    assert all(row.completion_tokens == 7 and row.latency_ms > 0 for row in first)
    assert all(json.loads(row.detail)["input"].startswith("question") for row in first)

"""Child processes: offline, and any end that is not a finished one is an error."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from evals.harness.child import environment, run_child
from evals.harness.conversation import Conversation
from registry.errors import EngineFailure, SpecError
from registry.protocols import silent

ROOT = Path(__file__).parents[3]


def run(tmp_path, do, progress=silent, **request):
    return list(run_child("tests.stubs.scripted_child", {"do": do, **request}, scratch=tmp_path, progress=progress))


def test_messages_arrive_and_prints_do_not_disturb(tmp_path):
    do = "print('noise', flush=True); os.write(1, b'more'); link.send('rows', value=request['x'])"
    assert run(tmp_path, do, x=7) == [{"type": "rows", "value": 7}]


def test_progress_is_told(tmp_path):
    told = []
    run(tmp_path, "link.progress('kpi', 1, 2, 'half')", progress=lambda *what: told.append(what))
    assert told == [("kpi", 1, 2, "half")]


@pytest.mark.parametrize(
    "do",
    ["os._exit(0)", "os._exit(7)", "os.kill(os.getpid(), signal.SIGKILL)",
     "os.write(link._out.fileno(), b'{\"type\": \"ro'); os.kill(os.getpid(), signal.SIGKILL)"],
)  # fmt: skip
def test_any_other_end_is_an_engine_failure(tmp_path, do):
    with pytest.raises(EngineFailure):
        run(tmp_path, do)


def test_the_last_words_of_a_crash_are_shown(tmp_path):
    with pytest.raises(EngineFailure, match="boom"):
        run(tmp_path, "raise ValueError('boom')")


def test_an_error_of_ours_stays_itself(tmp_path):
    with pytest.raises(SpecError, match="wrong") as caught:
        run(tmp_path, "raise SpecError('wrong', hint='mend it')")
    assert caught.value.hint == "mend it"


def test_a_child_is_offline_and_without_foreign_keys(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.setenv("INSPECT_TELEMETRY", "some.hook")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy")
    found = environment(tmp_path)
    assert {found[name] for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")} == {"1"}
    assert found["DO_NOT_TRACK"] == "1"
    assert not {"OPENAI_API_KEY", "INSPECT_TELEMETRY", "HTTPS_PROXY"} & set(found)


@pytest.fixture
def talk(tmp_path):
    """Open conversations with scripted children; all are ended."""
    opened = []

    def start(do="", progress=silent, **opening):
        made = Conversation("tests.stubs.scripted_session", {"do": do, **opening}, scratch=tmp_path, progress=progress)
        opened.append(made)
        return lambda do, **request: list(made.ask({"do": do, **request}))

    yield start
    for each in opened:
        each.close()


def test_a_session_answers_request_after_request_and_keeps_its_state(talk):
    told = []
    ask = talk("link.progress('opening', 1)", progress=lambda *what: told.append(what), count=0)
    count = "state['count'] += 1; link.send('counted', count=state['count'], size=len(request['text']))"
    sizes = [ask(count, text="x" * size)[0] for size in (1, 300_000)]
    assert sizes == [{"type": "counted", "count": 1, "size": 1}, {"type": "counted", "count": 2, "size": 300_000}]
    assert told == [("opening", 1, None, "")]


def test_a_session_lives_on_after_an_error_of_ours_and_starts_anew_after_any_other_end(talk):
    ask = talk(count=0)
    count = "state['count'] += 1; link.send('counted', count=state['count'])"
    ask(count)
    with pytest.raises(SpecError, match="wrong"):
        ask("raise SpecError('wrong', hint='mend it')")
    assert ask(count)[0]["count"] == 2
    for end in ("os.kill(os.getpid(), signal.SIGKILL)", "raise ValueError('boom')"):
        with pytest.raises(EngineFailure, match="ended with status"):
            ask(end)
        assert ask(count)[0]["count"] == 1


def test_a_session_that_cannot_begin_says_why_every_time(talk):
    ask = talk("raise SpecError('no model', hint='name one')")
    for _ in range(2):
        with pytest.raises(SpecError, match="no model"):
            ask("link.send('never')")


def test_a_session_that_nobody_listens_to_any_more_is_ended(tmp_path):
    made = Conversation("tests.stubs.scripted_session", {}, scratch=tmp_path, progress=silent)
    messages = made.ask({"do": "link.send('pid', pid=os.getpid()); time.sleep(60)"})
    pid = next(messages)["pid"]
    messages.close()
    assert not Path(f"/proc/{pid}").exists()
    assert list(tmp_path.glob("child-*")) == []


def test_a_child_ends_with_its_parent(tmp_path):
    code = "import time; from evals.children.link import serve; serve(lambda request, link: time.sleep(60))"
    request = tmp_path / "request.json"
    request.write_text("{}")
    orphan = subprocess.Popen(
        [sys.executable, "-P", "-c", code, str(request)], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    orphan.stdin.close()
    assert orphan.wait(timeout=30) == 3

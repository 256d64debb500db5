"""Settings: flag over environment over file over default, each with its source."""

import pytest

from registry import settings
from registry.errors import NotFound, SpecError


@pytest.fixture
def root(tmp_path):
    (tmp_path / "hallmark.toml").write_text(
        'workspace = "w"\nport = 9000\nengine = "vllm"\n[principals]\ntrainer = "dana"\n'
    )
    return tmp_path


def test_each_value_says_where_it_comes_from(root, monkeypatch):
    monkeypatch.setenv("HALLMARK_ENGINE", "transformers")
    found = settings.read(root, {"lock_wait_s": "3"})
    assert (found["port"], found.sources["port"]) == ("9000", "hallmark.toml")
    assert (found["engine"], found.sources["engine"]) == ("transformers", "HALLMARK_ENGINE")
    assert (found["lock_wait_s"], found.sources["lock_wait_s"]) == ("3", "flag")
    assert (found["host"], found.sources["host"]) == ("127.0.0.1", "default")
    assert found.principals == {"trainer": "dana"}


def test_the_nearest_workspace_above_is_found(root):
    (root / "a" / "b").mkdir(parents=True)
    assert settings.find_root(root / "a" / "b") == root


@pytest.mark.parametrize(
    ("text", "error", "match"),
    [
        ('workspace = "w"\nprot = 1\n', SpecError, "unknown setting `prot`"),
        ("port = 1\n", SpecError, "`workspace`: required"),
        ("workspace = \n", SpecError, "not valid TOML"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, text, error, match):
    (tmp_path / "hallmark.toml").write_text(text)
    with pytest.raises(error, match=match):
        settings.read(tmp_path)


def test_no_workspace_and_bad_numbers(tmp_path, root):
    with pytest.raises(NotFound, match="not a workspace"):
        settings.read(tmp_path / "nowhere")
    with pytest.raises(SpecError, match="expected a number"):
        settings.read(root, {"port": "many"}).number("port")


def test_signers_are_a_table_of_commands(tmp_path):
    (tmp_path / "hallmark.toml").write_text('workspace = "ab"\n[signers]\ndana = "card-tool --slot 9c"\n')
    assert settings.read(tmp_path).signers == {"dana": "card-tool --slot 9c"}
    (tmp_path / "hallmark.toml").write_text('workspace = "ab"\n[signers]\ndana = 9\n')
    with pytest.raises(SpecError, match="`signers`: expected a table"):
        settings.read(tmp_path)

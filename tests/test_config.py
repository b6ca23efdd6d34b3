"""Settings: promptd.toml and -o options become validated values, and mistakes are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from promptd.config import EngineSettings, graph_settings, load_settings, parse_duration, parse_size
from promptd.errors import InvalidArgument

FULL = """
[graphs.chat]
model = "smollm2"
system = "Answer briefly."
max-tokens = 64
top_k = 1
stop = ["END"]

[guests.bot]
file = "guests/bot.wasm"
graphs = ["chat"]
memory = "64MiB"
deadline = "5s"

[[guests.bot.dirs]]
host = "data"
guest = "/data"
writable = false

[engine]
kv-tokens = 4096
keep_alive = "0s"

[server]
port = 9000
"""


def test_a_settings_file_is_read_with_keys_in_either_spelling(tmp_path: Path):
    path = tmp_path / "promptd.toml"
    path.write_text(FULL)
    settings = load_settings(path)
    chat = settings.graphs["chat"]
    assert (chat.max_tokens, chat.top_k, chat.stop, chat.system) == (64, 1, ("END",), "Answer briefly.")
    assert settings.engine.kv_tokens == 4096
    assert settings.engine.keep_alive == 0
    assert settings.server.port == 9000


def test_relative_paths_are_taken_from_the_folder_of_the_file(tmp_path: Path):
    path = tmp_path / "promptd.toml"
    path.write_text(FULL)
    guest = load_settings(path).guests["bot"]
    assert guest.file == tmp_path / "guests/bot.wasm"
    assert guest.dirs[0].host == tmp_path / "data"
    assert (guest.memory, guest.deadline) == (64 * 1024**2, 5.0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[graphs.chat]\n", "graphs.chat.model"),
        ("[graphs.chat]\nmodel = 'x'\ntemprature = 1\n", "graphs.chat.temprature"),
        ("[graphs.chat]\nmodel = 'x'\ntemperature = 'hot'\n", "graphs.chat.temperature"),
        ("[graphs.'../x']\nmodel = 'x'\n", "graphs"),
        ("[engine]\nkv-tokens = 1\n", "engine.kv-tokens"),
        ("[guests.a]\nfile = 'x'\nmemory = 'much'\n", "guests.a.memory"),
        ("graphs = 3\n", "graphs"),
        ("[guests]\na = 3\n", "guests.a"),
        ("[graphs.chat\n", "line 1"),
        ("\x00", "TOML"),
    ],
)
def test_a_mistake_is_one_sentence_that_names_file_and_key(tmp_path: Path, text: str, said: str):
    path = tmp_path / "promptd.toml"
    path.write_text(text)
    with pytest.raises(InvalidArgument) as caught:
        load_settings(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[graphs.chat]\n# a note\n\nmodel = 'x'\ntemprature = 1\n", "line 5: there is no setting 'graphs.chat.temprature'; did you mean temperature?"),  # noqa: E501
        ("[graphs.a]\nmodel = 'x'\n[graphs.b]\n", "line 3: graphs.b.model is missing"),
        ("[graphs]\na = { model = 'x' }\nb = { model = 'x', seed = -1 }\n", "line 3: graphs.b.seed"),
        ("graphs.a.model = 'x'\ngraphs.a.max_tokens = 0\n", "line 2: graphs.a.max_tokens"),
        ("[graphs.a]\nmodel = 'x'\nsystem = \"\"\"\n[engine]\n\"\"\"\nstop = [\n  'a',\n  1,\n]\n", "line 6: graphs.a"),
        ("[server]\nport = 1\n[[server.keys]]\nname='a'\nsha256='x'\n", "line 5: server.keys.0.sha256"),
        (f"[[server.keys]]\nname='a'\nsha256='{'0' * 64}'\n[[server.keys]]\nname='b'\nscopes=['king']\nsha256=''\n",
         "line 7: server.keys.1.sha256"),
        ("[serverr]\nport = 1\n", "line 1: there is no setting 'serverr'; did you mean server?"),
        ("[server]\nzzzz = 1\n", "known keys are host"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "promptd.toml"
    path.write_text(text)
    with pytest.raises(InvalidArgument) as caught:
        load_settings(path)
    assert said in str(caught.value)


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path):
    with pytest.raises(InvalidArgument, match="No such file"):
        load_settings(tmp_path / "none.toml")


def test_options_of_the_command_line_are_converted_and_laid_over_the_file():
    base = graph_settings("chat", "smollm2", {"system": "Be kind.", "top-k": "5"})
    laid = graph_settings("chat", "echo", {"temperature": "0", "max-tokens": "7", "stop": "END"}, base)
    assert (laid.model, laid.system, laid.top_k) == ("echo", "Be kind.", 5)
    assert (laid.temperature, laid.max_tokens, laid.stop) == (0.0, 7, ("END",))


@pytest.mark.parametrize(
    ("text", "quota"), [("25%", 0.25), (0.25, 0.25), ("4096", 4096.0), (4096, 4096.0), ("100%", 1.0), (1, 1.0)]
)
def test_a_quota_is_a_share_or_a_number_of_tokens(text: str | float, quota: float):
    assert EngineSettings.model_validate({"kv-quota": text, "kv-quotas": {"bot": text}}).kv_quota == quota


@pytest.mark.parametrize("text", ["0", "-1", "150%", "1.5", "half", "", "nan", "inf", True])
def test_what_is_no_quota_is_refused(text: str | bool):
    with pytest.raises(ValueError, match="no quota"):
        EngineSettings.model_validate({"kv-quota": text})


def test_adapters_are_tables_in_the_file_and_text_on_the_command_line(tmp_path: Path):
    path = tmp_path / "promptd.toml"
    path.write_text("[graphs.a]\nmodel = 'x'\nlora = [{file = 'a.gguf', scale = 0.5}, {file = '/b.gguf'}]\n")
    assert [(each.file, each.scale) for each in load_settings(path).graphs["a"].lora] == [
        (tmp_path / "a.gguf", 0.5),
        (Path("/b.gguf"), 1.0),
    ]
    path.write_text("[graphs.a]\nmodel = 'x'\nlora = 'a.gguf:2'\n")
    assert load_settings(path).graphs["a"].lora[0].file == tmp_path / "a.gguf"
    typed = graph_settings("chat", "x", {"lora": "a.gguf:0.5,b:c.gguf,d.gguf"}).lora
    assert [(str(each.file), each.scale) for each in typed] == [("a.gguf", 0.5), ("b:c.gguf", 1.0), ("d.gguf", 1.0)]


def test_biases_are_a_table_in_the_file_and_json_on_the_command_line(tmp_path: Path):
    path = tmp_path / "promptd.toml"
    path.write_text("[graphs.chat]\nmodel = 'x'\nlogit-bias = {123 = -100, 7 = 1.5}\n")
    assert load_settings(path).graphs["chat"].logit_bias == ((123, -100.0), (7, 1.5))
    assert graph_settings("chat", "x", {"logit-bias": '{"5": 2}'}).logit_bias == ((5, 2.0),)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("../chat", {}),
        ("", {}),
        ("chat", {"temperature": "warm"}),
        ("chat", {"max-tokens": "-1"}),
        ("chat", {"no-such": "1"}),
        ("chat", {"target": "npu"}),
        ("chat", {"seed": str(2**32)}),
        ("chat", {"mirostat": "3"}),
        ("chat", {"dry-allowed-length": str(2**31)}),
        ("chat", {"logit-bias": '{"word": 1}'}),
        ("chat", {"logit-bias": '{"5": 101}'}),
        ("chat", {"logit-bias": "5:1"}),
        ("chat", {"lora": "a.gguf:1000"}),
        ("chat", {"lora": "a.gguf:nan"}),
    ],
)
def test_wrong_options_are_refused(name: str, options: dict[str, str]):
    with pytest.raises(InvalidArgument):
        graph_settings(name, "smollm2", options)


@pytest.mark.parametrize(
    ("text", "size"),
    [("256MiB", 256 * 1024**2), ("1G", 1024**3), ("1.5k", 1536), ("10", 10), (10, 10), ("2 gb", 2 * 1024**3)],
)
def test_sizes(text: str | int, size: int):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MiB", "-1", -1, "1 PB", "ten", True])
def test_wrong_sizes(text: str):
    with pytest.raises(ValueError):
        parse_size(text)


@pytest.mark.parametrize(("text", "seconds"), [("60s", 60), ("1.5", 1.5), ("250ms", 0.25), ("5m", 300), ("1h", 3600)])
def test_durations(text: str, seconds: float):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-1s", "1 day", True])
def test_wrong_durations(text: str):
    with pytest.raises(ValueError):
        parse_duration(text)


@pytest.mark.parametrize("text", ["9" * 400, "99999999999999T"])
def test_sizes_and_durations_beyond_all_measure_are_refused(text: str):
    with pytest.raises(ValueError):
        parse_size(text)
    with pytest.raises(ValueError):
        parse_duration(text.rstrip("T") + "h")


@pytest.mark.parametrize(
    "text", ["[guests.a]\nfile = 'x'\ndirs = 1\n", "[guests]\na = { dirs = [1] }\n", "a = " + "[" * 5000 + "]" * 5000]
)
def test_settings_of_any_shape_are_refused_in_one_sentence(tmp_path: Path, text: str):
    path = tmp_path / "promptd.toml"
    path.write_text(text)
    with pytest.raises(InvalidArgument) as caught:
        load_settings(path)
    assert "\n" not in str(caught.value)


def test_a_name_with_a_line_break_at_its_end_is_refused():
    with pytest.raises(InvalidArgument):
        graph_settings("chat\n", "echo", {})


@pytest.mark.parametrize(
    ("text", "seconds"), [("5m", 300.0), ("0", 0.0), ("forever", -1.0), (-1, -1.0), ("-5m", -1.0), (2.5, 2.5)]
)
def test_a_model_is_kept_for_a_time_or_forever(text: str | float, seconds: float) -> None:
    assert EngineSettings.model_validate({"keep-alive": text}).keep_alive == seconds


def test_weights_are_a_table_by_guest() -> None:
    settings = EngineSettings.model_validate({"weights": {"persona": 2}})
    assert dict(settings.weights) == {"persona": 2.0}
    assert hash(settings)
    with pytest.raises(ValueError, match="greater than 0"):
        EngineSettings.model_validate({"weights": {"persona": 0}})

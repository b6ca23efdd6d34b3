"""The life and death of the worker process."""

from __future__ import annotations

import errno
import gc
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from exact import EXACT, GREEDY
from waiting import wait_until

from promptd.chat import Completion, Message
from promptd.config import EngineSettings
from promptd.engine import crashes, link, process, worker
from promptd.engine.channel import Channel
from promptd.engine.client import Engine, start_command
from promptd.engine.messages import Close, Command, Event
from promptd.engine.options import Sampling
from promptd.errors import InvalidEncoding, NotFound, PromptdError, RuntimeFailure, TimedOut

Ask = Callable[..., Completion]
LONG = Sampling(temperature=0, max_tokens=400)
ROOT = Path(__file__).parents[2]


def kill_worker(engine: Engine, how: signal.Signals = signal.SIGKILL) -> int:
    pid = engine.stats().worker_pid
    assert pid is not None
    os.kill(pid, how)
    return pid


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def engine(smollm2: Path) -> object:
    with Engine(smollm2, EXACT) as engine:
        yield engine


def test_a_worker_killed_in_mid_reply_fails_the_call_and_the_next_turn_goes_on_token_identically(
    engine: Engine, ask: Ask
) -> None:
    undisturbed = [ask(conversation := engine.conversation("guest"), "Name a fruit."), ask(conversation, "Another.")]
    conversation = engine.conversation("guest")
    assert ask(conversation, "Name a fruit.").text == undisturbed[0].text
    reply = conversation.send([Message("user", "Write a very long story.")], LONG)
    next(iter(reply))
    killed = kill_worker(engine)
    with pytest.raises(RuntimeFailure, match="was killed by SIGKILL"):
        reply.result()
    with pytest.raises(RuntimeFailure):
        list(reply)
    assert conversation.turns == 1
    assert ask(conversation, "Another.").text == undisturbed[1].text
    stats = engine.stats()
    assert stats.worker_pid != killed
    assert stats.worker_starts == 2
    assert stats.prompt_tokens == undisturbed[1].usage.prompt, "the conversation was rebuilt from its tokens"


def test_a_worker_that_died_while_idle_is_not_noticed(engine: Engine, ask: Ask) -> None:
    conversation = engine.conversation("guest")
    ask(conversation, "Hello.")
    kill_worker(engine)
    fork = conversation.fork()
    conversation.rewind(1)
    assert ask(conversation, "Hi.").usage.cached == 0
    assert ask(fork, "Bye.").usage.prompt > 40
    assert fork.turns == 2


def test_all_calls_in_flight_fail_when_the_worker_dies(engine: Engine) -> None:
    conversations = [engine.conversation("guest") for _ in range(4)]
    replies = [conversation.send([Message("user", "Tell a story.")], LONG) for conversation in conversations]
    heard: list[object] = []
    replies[0].subscribe(heard.append)
    kill_worker(engine)
    for reply in replies:
        with pytest.raises(RuntimeFailure):
            reply.result()
    assert isinstance(heard[-1], RuntimeFailure)
    assert engine.conversation("guest").send([Message("user", "Hi")], GREEDY).result().text


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start workers again at once, and forgive nothing by and by."""
    monkeypatch.setattr(crashes, "BACK_OFF_S", (0.0, 0.0, 0.0))
    monkeypatch.setattr(crashes, "CRASH_WINDOW_S", 600.0)


@pytest.mark.usefixtures("no_pauses")
def test_a_worker_that_keeps_crashing_is_not_started_for_ever(
    engine: Engine, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversation = engine.conversation("guest")
    ask(conversation, "Hello.")
    for _ in range(crashes.MAX_CRASHES):
        engine.count_tokens("Hello.")
        pid = kill_worker(engine, signal.SIGABRT)
        wait_until(lambda pid=pid: engine.stats().worker_pid != pid)
    with pytest.raises(RuntimeFailure, match=r"ended 3 times within 600 s, and was killed by SIGABRT.* at last"):
        conversation.send([Message("user", "Hello.")])
    assert engine.stats().worker_pid is None
    monkeypatch.setattr(crashes, "CRASH_WINDOW_S", 0.0)
    assert conversation.turns == 1
    assert ask(conversation, "Hello.").text


DYING = "import os, signal; os.kill(os.getpid(), signal.{})"


@pytest.mark.usefixtures("no_pauses")
def test_workers_that_are_killed_while_they_load_lock_nobody_out_unless_that_goes_on(
    tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Engine(tiny(), EXACT) as engine:
        kill_worker(engine)
        wait_until(lambda: engine.stats().worker_pid is None)
        with monkeypatch.context() as killed:
            killed.setattr(process, "_BOOT", DYING.format("SIGKILL"))
            for _ in range(2 * crashes.MAX_CRASHES):
                with pytest.raises(RuntimeFailure, match="was killed by SIGKILL"):
                    engine.count_tokens("hello")
        assert engine.conversation("guest").send([Message("user", "hello")], GREEDY).result().usage.generated > 0
        kill_worker(engine)
        wait_until(lambda: engine.stats().worker_pid is None)
        monkeypatch.setattr(process, "_BOOT", DYING.format("SIGKILL"))
        for _ in range(crashes.MAX_CRASHES * crashes.KILLS_OF_A_CRASH - 1):
            with pytest.raises(RuntimeFailure, match="was killed by SIGKILL"):
                engine.count_tokens("hello")
        with pytest.raises(RuntimeFailure, match=r"ended 9 times within 600 s, and was killed by SIGKILL at last"):
            engine.count_tokens("hello")


def test_a_worker_that_says_why_it_cannot_load_the_model_has_not_crashed(tmp_path: Path) -> None:
    history = crashes.Crashes()
    with pytest.raises(NotFound):
        Engine(tmp_path / "missing.gguf", crashes=history)
    assert not history.any


def test_a_worker_that_hangs_does_not_hold_a_caller_past_the_deadline(
    engine: Engine, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("promptd.engine.pending.DEADLINE_GRACE_S", 0.1)
    conversation = engine.conversation("guest")
    ask(conversation, "Hello.")
    pid = engine.stats().worker_pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(TimedOut, match="did not answer"):
        conversation.send([Message("user", "Hi")], deadline=time.monotonic() + 0.1)
    os.kill(pid, signal.SIGCONT)
    assert ask(conversation, "Bye.").text
    assert conversation.turns == 2
    assert engine.stats().sequences == 1


def test_closing_ends_the_worker(smollm2: Path) -> None:
    engine = Engine(smollm2, EXACT)
    pid = engine.stats().worker_pid
    assert pid is not None
    engine.close()
    assert not is_running(pid)


@pytest.mark.parametrize("last_words", ["os.kill(os.getpid(), 9)", "os._exit(0)", "pass"])
def test_no_worker_outlives_its_parent(smollm2: Path, last_words: str) -> None:
    program = (
        "import os, sys, pathlib\n"
        "from promptd.engine.client import Engine\n"
        "from promptd.engine.options import Sampling\n"
        "from promptd.chat import Message\n"
        "from promptd.config import EngineSettings\n"
        "engine = Engine(pathlib.Path(sys.argv[1]), EngineSettings(threads=1, kv_tokens=8192))\n"
        "reply = engine.conversation('g').send([Message('user', 'Tell a story')], Sampling(temperature=0))\n"
        "next(iter(reply))\n"
        "print(engine.stats().worker_pid, flush=True)\n" + last_words
    )
    done = subprocess.run(
        [sys.executable, "-c", program, smollm2], cwd=ROOT, capture_output=True, text=True, check=False
    )
    pid = int(done.stdout)
    wait_until(lambda: not is_running(pid))


def test_the_worker_ends_with_the_engine_not_with_the_thread_that_made_it(tiny: Callable[..., Path], ask: Ask) -> None:
    engines = []
    maker = threading.Thread(target=lambda: engines.append(Engine(tiny(), EXACT)))
    maker.start()
    maker.join()
    with engines[0] as engine:
        assert ask(engine.conversation("guest"), "hello").usage.generated > 0
        assert engine.stats().worker_starts == 1


def test_ctrl_c_is_the_parents_to_handle(tiny: Callable[..., Path], ask: Ask) -> None:
    with Engine(tiny(), EXACT) as engine:
        pid = engine.stats().worker_pid
        assert pid is not None
        assert os.getpgid(pid) != os.getpgid(0), "a terminal's ctrl-c goes to the foreground group"
        os.kill(pid, signal.SIGINT)
        assert ask(engine.conversation("guest"), "hello").usage.generated > 0
        assert engine.stats().worker_pid == pid


def test_the_worker_is_not_given_the_parents_secrets(
    tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("GOMP_SPINCOUNT", "1000")
    with Engine(tiny(), EXACT) as engine:
        environment = Path(f"/proc/{engine.stats().worker_pid}/environ").read_bytes()
    names = {entry.partition(b"=")[0].decode() for entry in environment.split(b"\0") if entry}
    assert "GOMP_SPINCOUNT" in names
    assert not {"HF_TOKEN", "AWS_SECRET_ACCESS_KEY"} & names


def test_an_operators_openmp_settings_are_kept() -> None:
    environment = process.worker_environment({"GOMP_SPINCOUNT": "7", "SECRET": "x"}, spin="1000")
    assert environment["GOMP_SPINCOUNT"] == "7"
    assert "SECRET" not in environment
    environment = process.worker_environment({"OMP_WAIT_POLICY": "passive"}, spin="1000")
    assert environment["OMP_WAIT_POLICY"] == "passive"
    assert "GOMP_SPINCOUNT" not in environment, "which would overrule the policy"


def test_threads_spin_long_only_where_cores_are_free_and_fewer_threads_can_be_used_when_they_are_not() -> None:
    assert process.spin_count(threads=None, runnable=1, cores=2) is None
    assert process.spin_count(threads=None, runnable=2, cores=2) == process.SHORT_SPIN
    assert process.spin_count(threads=2, runnable=0, cores=2) == process.SHORT_SPIN
    assert process.worker_environment({}).keys() == process._OWN_ENVIRONMENT.keys()


def broken_models(tiny: Callable[..., Path], folder: Path) -> dict[str, tuple[Path, type[PromptdError], str]]:
    good = tiny().read_bytes()
    files = {
        "truncated": (good[: len(good) - 20_000], InvalidEncoding, "corrupted or incomplete"),
        "header only": (good[:200], InvalidEncoding, "llama.cpp cannot load"),
        "text": (b"This is no model.\n" * 100, InvalidEncoding, "is not a GGUF file"),
        "empty": (b"", InvalidEncoding, "is not a GGUF file"),
        "unknown architecture": (tiny(architecture="wonder").read_bytes(), InvalidEncoding, "wonder"),
    }
    found = {}
    for name, (data, error, cause) in files.items():
        path = folder / f"{name}.gguf"
        path.write_bytes(data)
        found[name] = (path, error, cause)
    found["missing"] = (folder / "missing.gguf", NotFound, "there is no model file")
    found["folder"] = (folder, RuntimeFailure, "cannot read model file")
    return found


@pytest.mark.parametrize(
    "name", ["truncated", "header only", "text", "empty", "unknown architecture", "missing", "folder"]
)
def test_a_file_that_cannot_be_loaded_is_one_clear_sentence(
    tiny: Callable[..., Path], tmp_path: Path, name: str
) -> None:
    path, error, cause = broken_models(tiny, tmp_path)[name]
    with pytest.raises(error, match=cause) as caught:
        Engine(path, EXACT)
    sentence = str(caught.value)
    assert path.name in sentence
    assert "\n" not in sentence


def test_a_worker_that_is_closed_before_it_is_opened_does_not_load(smollm2: Path) -> None:
    ended = threading.Event()
    closed = link.Link(start_command(smollm2, EXACT), lambda event: None, lambda link: ended.set())
    closed.close()
    with pytest.raises(RuntimeFailure, match="could not be started"):
        closed.open()
    assert ended.is_set()


def test_a_worker_that_crashes_while_it_loads_is_one_clear_sentence(
    tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        process, "_BOOT", "import os, sys; sys.stderr.write('GGML_ASSERT(n > 0) failed\\n'); os.abort()"
    )
    with pytest.raises(RuntimeFailure) as caught:
        Engine(tiny(), EXACT)
    assert str(caught.value) == (
        "the model's worker process was killed by SIGABRT (GGML_ASSERT(n > 0) failed) while it loaded tiny.gguf"
    )


def test_a_model_whose_template_is_broken_still_continues_raw_text(tiny: Callable[..., Path], ask: Ask) -> None:
    with Engine(tiny(template="{{ broken"), EXACT) as engine:
        assert engine.info.has_template
        with pytest.raises(RuntimeFailure, match="the model's chat template fails"):
            ask(engine.conversation("guest"), "hello")
        assert ask(engine.conversation("guest", template="none"), "hello").usage.generated > 0


def test_a_model_without_a_template_continues_raw_text_and_says_so(tiny: Callable[..., Path], ask: Ask) -> None:
    with Engine(tiny(template=None), EXACT) as engine:
        assert not engine.info.has_template
        assert any("no chat template" in warning for warning in engine.info.warnings)
        reply = ask(engine.conversation("guest"), "hello")
        assert reply.usage.prompt == 1 + engine.count_tokens("hello"), "BOS and the text"


def test_a_gpu_that_is_not_there_is_a_warning_and_the_cpu_does_the_work(tiny: Callable[..., Path]) -> None:
    with Engine(tiny(), EXACT, target="gpu") as engine:
        if engine.info.gpu_offload:
            assert engine.info.device == "GPU"
        else:
            assert engine.info.device == "CPU"
            assert any('target = "gpu"' in warning for warning in engine.info.warnings)
    with Engine(tiny(), EXACT, target="cpu") as engine:
        assert engine.info.device == "CPU"
        assert engine.info.warnings == ()


def test_the_kv_cache_is_moderate_unless_the_operator_says_otherwise(tiny: Callable[..., Path]) -> None:
    path = tiny(context=100_000)
    with Engine(path) as engine:
        assert engine.info.kv_tokens == 16_384
        assert engine.info.context == 16_384
    with Engine(path, context=20_000) as engine:
        assert engine.info.context == 20_000
        assert engine.info.kv_tokens >= 20_000
    with Engine(path, EngineSettings(kv_tokens=1024), context=2000) as engine:
        assert engine.info.context == engine.info.kv_tokens == 1024
        assert any("does not fit the KV cache" in warning for warning in engine.info.warnings)
    with Engine(tiny(context=512), context=1000) as engine:
        assert engine.info.context == 512
        assert any("trained for" in warning for warning in engine.info.warnings)


def test_a_model_nobody_uses_is_unloaded_and_conversations_go_on_when_it_is_used_again(smollm2: Path, ask: Ask) -> None:
    with Engine(smollm2, EXACT.model_copy(update={"keep_alive": 0.0})) as engine:
        pid = engine.stats().worker_pid
        conversation = engine.conversation("guest")
        reply = conversation.send([Message("user", "Name a fruit.")], GREEDY)
        assert reply.result().usage.generated == 16, "it is not unloaded in mid-reply"
        wait_until(lambda: engine.stats().worker_pid is None)
        if pid is not None:
            wait_until(lambda: not is_running(pid))
        second = ask(conversation, "Another.")
        assert second.usage.prompt > reply.result().usage.prompt
        assert engine.stats().worker_starts >= 2
        for _ in range(crashes.MAX_CRASHES + 1):
            wait_until(lambda: engine.stats().worker_pid is None)
            assert engine.count_tokens("Hello world") == 2, "unloading is no crash"


def test_a_model_may_be_kept_forever_and_asking_for_counters_is_no_use(tiny: Callable[..., Path]) -> None:
    with Engine(tiny(), EXACT.model_copy(update={"keep_alive": -1.0})) as kept:
        with Engine(tiny(), EXACT.model_copy(update={"keep_alive": 0.2})) as brief:
            wait_until(lambda: brief.stats().worker_pid is None)
        assert kept.stats().worker_pid is not None


def test_the_parent_never_loads_llama_cpp() -> None:
    named = "[name for name in sys.modules if name.startswith('llama_cpp')]"
    program = f"import sys, promptd.wasm.host, promptd.backends.ggml; print({named})"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"


def test_the_worker_starts_without_the_parents_half_and_without_what_few_replies_need() -> None:
    late = {"pydantic", "promptd.engine.client", "promptd.engine.supervisor", "numpy", "diskcache", "llama_cpp.llama"}
    program = f"import sys, promptd.engine.worker; print({late} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout == "set()\n"


def test_the_bindings_leave_the_whole_package_to_who_wants_it() -> None:
    program = "import promptd.engine.llama, llama_cpp; print(llama_cpp.Llama.__name__, llama_cpp.llama_cpp.__name__)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout == "Llama llama_cpp.llama_cpp\n"


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="only Linux tells a process's memory in /proc")
def test_the_memory_shown_of_a_worker_is_what_the_kernel_says(engine: Engine, ask: Ask) -> None:
    ask(engine.conversation("guest"), "Hello.")
    stats = engine.stats()
    rollup = Path(f"/proc/{stats.worker_pid}/smaps_rollup").read_text()
    (resident,) = re.findall(r"^Rss:\s+(\d+) kB", rollup, re.MULTILINE)
    assert stats.rss == pytest.approx(int(resident) * 1024, rel=0.05)


class _Core:
    """Stands for a core whose `expected` conversations take a turn, each as that of the one before is taken."""

    def __init__(self, far: socket.socket, expected: int) -> None:
        self._channel: Channel[Command] = Channel(far, Command)  # type: ignore[arg-type]
        self._left = expected
        self.taken: list[Command] = []

    @property
    def may_get_turns(self) -> bool:
        return self._left > 0

    def handle(self, command: Command) -> list[Event]:
        self._left -= 1
        self.taken.append(command)
        self._channel.send(Close(len(self.taken)))
        return []


@pytest.mark.parametrize("expected", [0, 1, 5])
def test_turns_that_come_one_after_the_other_begin_in_one_step_while_there_may_be_more(expected: int) -> None:
    near, far = socket.socketpair()
    with near, far:
        core = _Core(far, expected)
        core._channel.send(Close(0))
        worker._gather(Channel(near, Command), core)  # type: ignore[arg-type]
        assert core.taken == [Close(number) for number in range(expected)]


def test_no_turn_is_waited_for_that_does_not_come() -> None:
    near, far = socket.socketpair()
    with near, far:
        core = _Core(far, 1)
        worker._gather(Channel(near, Command), core)  # type: ignore[arg-type]
        assert core.taken == []


def test_the_parent_s_end_is_seen_while_more_turns_are_waited_for() -> None:
    near, far = socket.socketpair()
    with near:
        core = _Core(far, 1)
        far.close()
        with pytest.raises(EOFError):
            worker._gather(Channel(near, Command), core)  # type: ignore[arg-type]


def test_a_worker_of_a_daemon_with_a_thousand_connections_makes_replies(smollm2: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, limits[1]), limits[1]))
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        with Engine(smollm2, EXACT) as engine:  # its socket has a number beyond what select() takes
            idle, busy = engine.conversation("idle"), engine.conversation("busy")
            for conversation in (idle, busy):
                assert conversation.send([Message("user", "Hello.")], GREEDY).result().text
    finally:
        for descriptor in opened:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_worker_starts_where_the_kernel_gives_no_nameless_files(
    smollm2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(name: str) -> int:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "memfd_create", refused)
    with Engine(smollm2, EXACT) as engine:
        conversation = engine.conversation("guest")
        assert conversation.send([Message("user", "Hello.")], GREEDY).result().text


def test_a_worker_that_cannot_be_started_leaves_no_socket(smollm2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        with pytest.raises(RuntimeFailure, match="could not be started"):
            Engine(smollm2, EXACT)
        gc.collect()

"""Every cause by a real message: from llama.cpp's sources, from the real engine, or from reports in its issues."""

import signal
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamad.servers.board import Failure
from llamad.servers.causes import CAUSES, MAX_QUOTED, DeviceSigns, gpu_missing
from llamad.servers.diagnosis import Exit, LastLines, diagnose, is_unexplained

MODEL_ENDS = (
    "0.00.014.880 E llama_model_load: error loading model: llama_model_loader: failed to load model from /m/a.gguf\n"
    "0.00.014.901 E llama_model_load_from_file_impl: failed to load model\n"
    "0.00.014.971 E cmn  common_init_: failed to load model '/m/a.gguf'\n"
    "0.00.014.986 E srv    load_model: failed to load model, '/m/a.gguf'\n"
    "0.00.015.372 E srv  llama_server: exiting due to model loading error"
)
CUDA_OOM = (
    "0.01.2 E ggml_backend_cuda_buffer_type_alloc_buffer: allocating 6144.00 MiB on device 1: "
    "cudaMalloc failed: out of memory\n"
    "0.01.200.100 E alloc_tensor_range: failed to allocate CUDA1 buffer of size 6442450944\n"
    "0.01.200.200 E llama_model_load: error loading model: unable to allocate CUDA1 buffer"
)

# lines, cause, what the message says, permanent
LINES: list[tuple[str, str, str, bool]] = [
    ("0.00.2 E Failed to connect to 10.0.0.7:50052\nbacktrace", "rpc-server-gone", "rpc-server 10.0.0.7:50052", False),
    (
        "/b/ggml-rpc.cpp:465: Remote RPC server crashed or returned malformed response\n[New LWP 77]",
        "rpc-server-gone",
        "an rpc-server of its args has gone",
        False,
    ),
    ("error: invalid argument: --foo", "unknown-option", "does not know the option --foo", True),
    (
        'error while handling argument "--ctx-size": stoi\n\nusage:\n-c,    --ctx-size N   size of the context\n',
        "bad-option-value",
        "refuses the value of --ctx-size: stoi",
        True,
    ),
    (
        "error while handling argument \"--flash-attn\": error: unknown value for --flash-attn: 'maybe'",
        "bad-option-value",
        "unknown value for --flash-attn: 'maybe'",
        True,
    ),
    (
        'error while handling environment variable "LLAMA_ARG_CTX_SIZE": stoi',
        "bad-option-value",
        "the environment variable LLAMA_ARG_CTX_SIZE: stoi",
        True,
    ),
    ('error while handling argument "--device": invalid device: CUDA3', "unknown-device", "no device CUDA3", False),
    (CUDA_OOM, "out-of-gpu-memory", "GPU 1 has not 6144.00 MiB", False),
    ("E ROCm error: out of memory\nE   current device: 0", "out-of-gpu-memory", "the GPU has not enough", False),
    (
        "ggml_vulkan: Device memory allocation of size 1610612736 failed.\n"
        "ggml_vulkan: vk::Device::allocateMemory: ErrorOutOfDeviceMemory",
        "out-of-gpu-memory",
        "the GPU has not enough memory",
        False,
    ),
    (
        "E ggml_backend_sycl_buffer_type_alloc_buffer: can't allocate 4294967296 Bytes of memory on device",
        "out-of-gpu-memory",
        "the GPU has not enough memory",
        False,
    ),
    ("E alloc_tensor_range: failed to allocate ROCm0 buffer of size 1", "out-of-gpu-memory", "(ROCm0)", False),
    (
        "E llama_model_load: error loading model: unable to allocate Vulkan0 buffer",
        "out-of-gpu-memory",
        "(Vulkan0)",
        False,
    ),
    ("E llama_model_load: error loading model: mmap failed: Cannot allocate memory", "out-of-memory", "host", False),
    (
        "E ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 68719476736",
        "out-of-memory",
        "the host has not enough memory",
        False,
    ),
    ("E alloc_tensor_range: failed to allocate CPU buffer of size 99", "out-of-memory", "the host", False),
    ("E ggml_aligned_malloc: insufficient memory (attempted to allocate 99.00 MB)", "out-of-memory", "the host", False),
    ("E llama_init_from_model: failed to allocate buffer for kv cache", "out-of-memory", "the host", False),
    ("terminate called after throwing an instance of 'std::bad_alloc'", "out-of-memory", "the host", False),
    (
        "E CUDA error: no kernel image is available for execution on the device",
        "gpu-too-old",
        "not built for this GPU",
        True,
    ),
    (
        "E ggml_cuda_init: failed to initialize CUDA: CUDA driver version is insufficient for CUDA runtime version",
        "gpu-driver",
        "CUDA driver version is insufficient",
        False,
    ),
    (
        "E CUDA error: an illegal memory access was encountered\nE   current device: 0, in function sync at x.cu:2",
        "gpu-error",
        "CUDA error: an illegal memory access was encountered",
        False,
    ),
    (
        "E gguf_init_from_file: failed to open GGUF file '/m/a.gguf' (Too many open files)\n" + MODEL_ENDS,
        "too-many-files",
        "too many open files",
        False,
    ),
    (
        "0.00.014.733 E gguf_init_from_file: failed to open GGUF file '/m/a.gguf' (No such file or directory)\n"
        + MODEL_ENDS,
        "model-missing",
        "the model file /m/a.gguf is not there",
        True,
    ),
    (
        "E llama_model_load: error loading model: failed to open /m/b.gguf: No such file or directory",
        "model-missing",
        "/m/b.gguf is not there",
        True,
    ),
    (
        "E clip_init: failed to load model 'p': load_tensors: failed to load CLIP model from /m/p.gguf. "
        "Does this file exist?",
        "model-missing",
        "/m/p.gguf",
        True,
    ),
    (
        "E gguf_init_from_file: failed to open GGUF file '/m/a.gguf' (Permission denied)\n" + MODEL_ENDS,
        "model-unreadable",
        "the model file /m/a.gguf cannot be read: Permission denied",
        True,
    ),
    (
        "E llama_model_load: error loading model: failed to open /m/a.gguf: Permission denied",
        "model-unreadable",
        "/m/a.gguf cannot be read: Permission denied",
        True,
    ),
    (
        "E gguf_init_from_file: failed to open GGUF file '/m/a.gguf'\n" + MODEL_ENDS,
        "model-unreadable",
        "/m/a.gguf cannot be opened",
        True,
    ),
    (
        "E gguf_init_from_reader: invalid magic characters: '<!DO', expected 'GGUF'\n" + MODEL_ENDS,
        "model-corrupt",
        "no GGUF file: it begins with '<!DO'",
        True,
    ),
    (
        "E gguf_init_from_reader: failed to load model: this GGUF file version 50331648 is extremely large, is there "
        "a mismatch between the host and model endianness?\nE gguf_init_from_reader: failed to read header\n"
        + MODEL_ENDS,
        "model-corrupt",
        "the other byte order",
        True,
    ),
    (
        "E gguf_init_from_reader: this GGUF file is version 9 but this software only supports up to version 3\n"
        "E gguf_init_from_reader: failed to read header\n" + MODEL_ENDS,
        "model-unsupported",
        "version 9 but this software only supports up to version 3",
        True,
    ),
    (
        "E llama_model_load: error loading model: tensor 'token_embd.weight' data is not within the file bounds, "
        "model is corrupted or incomplete",
        "model-corrupt",
        "tensor 'token_embd.weight' data is not within the file bounds",
        True,
    ),
    (
        "E gguf_init_from_reader: failed to read key-value pairs\n" + MODEL_ENDS,
        "model-corrupt",
        "failed to read key-value pairs",
        True,
    ),
    ("E gguf_init_from_reader: failed to read magic\n" + MODEL_ENDS, "model-corrupt", "failed to read magic", True),
    (
        "E gguf_init_from_file_impl: duplicate key 'a' for KV pair 3\n" + MODEL_ENDS,
        "model-corrupt",
        "duplicate key 'a'",
        True,
    ),
    (
        "E llama_model_load: error loading model: unknown model architecture: 'quux'",
        "model-unsupported",
        "architecture 'quux'",
        True,
    ),
    (
        "E llama_model_load: error loading model: CLIP cannot be used as main model, use it with --mmproj instead",
        "model-unsupported",
        "projector",
        True,
    ),
    ("E llama_model_load: error loading model: read error: Input/output error", "disk-error", "read error", False),
    (
        "E get_repo_files: error: GET failed (401): Invalid username or password.",
        "download-failed",
        "GET failed (401)",
        True,
    ),
    (
        "E common_download: no GGUF files found in repository org/name",
        "download-failed",
        "no GGUF files found in repository org/name",
        True,
    ),
    (
        "E common_pull_file: error writing to file: /c/a.part\nE download failed after 3 attempts",
        "disk-full",
        "",
        False,
    ),
    ("llama-server: write: No space left on device", "disk-full", "the disk is full", False),
    (
        "E common_download_file_single_online: download failed after 3 attempts\n"
        "E srv  llama_server: failed to download model: failed to download model from Hugging Face",
        "download-failed",
        "failed to download model from Hugging Face",
        False,
    ),
    (
        "E srv  llama_server: failed to fetch model metadata: HTTPLIB failed: Could not establish connection",
        "download-failed",
        "Could not establish connection",
        False,
    ),
    (
        "E llama_model_load: error loading model: missing tensor 'blk.0.attn_q.weight'",
        "model-rejected",
        "missing tensor 'blk.0.attn_q.weight'",
        True,
    ),
    (
        "E llama_model_load: error loading model: error loading model hyperparameters: key not found in model: x",
        "model-rejected",
        "key not found in model: x",
        True,
    ),
    ("E srv    load_model: failed to load multimodal model, '/m/p.gguf'", "model-rejected", "/m/p.gguf", True),
    (
        "0.00.000.800 E srv         start: couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 8080\n"
        "0.00.000.900 E srv  llama_server: exiting due to HTTP server error",
        "port-taken",
        "127.0.0.1, port 8080",
        False,
    ),
    (
        "E srv  start: couldn't bind HTTP server socket, hostname: /run/llamad/s/q-0.sock, port: 8080",
        "socket-failed",
        "/run/llamad/s/q-0.sock",
        False,
    ),
    (
        "llama-server: error while loading shared libraries: libcudart.so.12: cannot open shared object file: "
        "No such file or directory",
        "library-missing",
        "libcudart.so.12",
        True,
    ),
    (
        "llama-server: /lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.38' not found (required by llama-server)",
        "library-missing",
        "GLIBC_2.38 in /lib/x86_64-linux-gnu/libc.so.6",
        True,
    ),
    ("sh: 6: exec: /opt/llama-server: not found", "binary-missing", "/opt/llama-server is not there", True),
    ("sh: 6: exec: /opt/llama-server: Permission denied", "not-executable", "Permission denied", True),
    ("bash: /opt/x: cannot execute binary file: Exec format error", "not-executable", "Exec format error", True),
    (
        "warning: failed to mlock 81920-byte buffer (after previously locking 0 bytes): Cannot allocate memory",
        "memory-lock",
        "lock the model in memory",
        False,
    ),
]


def own(ended: Exit, lines: Sequence[str], **known: Any) -> Failure:
    """What `diagnose` says of lines that no client can have written."""
    return diagnose(ended, LastLines(own=lines), **known)


@pytest.mark.parametrize(
    ("lines", "cause", "says", "permanent"), LINES, ids=[f"{row[1]}-{i}" for i, row in enumerate(LINES)]
)
def test_each_message_is_understood(lines: str, cause: str, says: str, *, permanent: bool) -> None:
    found = own(Exit(1), lines.split("\n"), rpc=cause == "rpc-server-gone")
    assert (found.cause, found.permanent) == (cause, permanent)
    assert says in found.message
    assert found.hint


def test_each_row_of_the_table_has_a_message() -> None:
    for cause in CAUSES:
        assert any(cause.name == row[1] and cause.pattern.search(row[0].replace("\n", " ")) for row in LINES) or any(
            cause.pattern.search(line) for row in LINES if row[1] == cause.name for line in row[0].split("\n")
        ), f"no test for {cause.name}: {cause.pattern.pattern}"


SIGNALS: list[tuple[int, str, str, bool]] = [
    (signal.SIGKILL, "killed", "SIGKILL, and not by llamad", False),
    (signal.SIGILL, "illegal-instruction", "another CPU", True),
    (signal.SIGSEGV, "segfault", "segmentation fault", False),
    (signal.SIGABRT, "aborted", "gave up", False),
    (signal.SIGTERM, "terminated", "somebody else ended it (SIGTERM)", False),
    (signal.SIGSYS, "forbidden-call", "sandbox", False),
    (signal.SIGBUS, "bus-error", "went away", False),
    (signal.SIGXCPU, "killed", "killed by SIGXCPU", False),
    (40, "killed", "killed by signal 40", False),
]


@pytest.mark.parametrize(("number", "cause", "says", "permanent"), SIGNALS)
def test_each_signal_is_understood(number: int, cause: str, says: str, *, permanent: bool) -> None:
    found = own(Exit(signal=number), ["0.00.1 I srv  x: y"])
    assert (found.cause, found.permanent) == (cause, permanent)
    assert says in found.message
    assert found.hint


def test_an_oom_kill_is_named_by_its_count() -> None:
    assert own(Exit(signal=9), [], oom_kills=1).cause == "oom-killed"
    assert own(Exit(1), [], oom_kills=1).cause == "exit-code"  # a helper's, not its own


def test_a_wrapper_script_hides_no_signal() -> None:
    assert own(Exit(137), [], oom_kills=1).cause == "oom-killed"
    assert own(Exit(132), []).cause == "illegal-instruction"
    assert own(Exit(255), []).message == ("it ended with exit code 255, without a word")


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS])
def test_a_crash_after_a_failed_allocation_is_lack_of_memory(number: int) -> None:
    assert own(Exit(signal=number), CUDA_OOM.split("\n")).cause == "out-of-gpu-memory"


def test_lines_of_a_start_do_not_explain_a_kill() -> None:
    lines = ["error: invalid argument: --foo"]
    assert own(Exit(signal=11), lines).cause == "segfault"
    assert own(Exit(0), lines).cause == "ended"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("/build/ggml/src/ggml.c:1234: GGML_ASSERT(a->n > 0) failed", "ggml.c:1234: GGML_ASSERT(a->n > 0) failed"),
        ("/build/src/llama-vocab.cpp:3: fatal error", "llama-vocab.cpp:3: fatal error"),
        ("  what():  invalid vector subscript", "gave up: invalid vector subscript"),
    ],
)
def test_an_abort_quotes_its_reason(line: str, says: str) -> None:
    found = own(Exit(signal=6), ["I fine", line, "backtrace"])
    assert found.cause == "aborted"
    assert found.message.endswith(says)


@pytest.mark.parametrize("ended", [Exit(), Exit(3), Exit(signal=40)])
def test_a_hint_names_the_server_in_the_command(ended: Exit) -> None:
    assert "`llamad logs qwen`" in (own(ended, [], server="qwen").hint or "")


@pytest.mark.parametrize(("code", "cause"), [(127, "binary-missing"), (126, "not-executable"), (3, "exit-code")])
def test_exit_codes_without_a_word(code: int, cause: str) -> None:
    assert own(Exit(code), ["", " "]).cause == cause


def test_a_plain_exit_quotes_its_last_error() -> None:
    lines = ["0.00.006.794 E srv          init: it all went wrong", "0.00.007.000 I srv  x: cleaning up"]
    found = own(Exit(3), lines)
    assert found.message == "it ended with exit code 3; its last words: srv          init: it all went wrong"
    assert own(Exit(3), ["goodbye", ""]).message.endswith("its last words: goodbye")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("I will crash now", "I will crash now"),
        ("0.00.006.794 I will crash now", "will crash now"),
        ("I srv   init: x", "srv   init: x"),
        ("E   indented", "indented"),
    ],
)
def test_last_words_are_without_llama_cpps_prefix_and_otherwise_whole(line: str, words: str) -> None:
    assert own(Exit(), [line]).message == f"it ended unseen; its last words: {words}"


def test_an_end_that_nobody_saw() -> None:
    assert own(Exit(), []).message == "it ended unseen, without a word"
    assert own(Exit(), ["bye"]).message == "it ended unseen; its last words: bye"
    assert own(Exit(), CUDA_OOM.split("\n")).cause == "out-of-gpu-memory"


def test_missing_gpus_are_the_cause_of_a_plain_end() -> None:
    assert own(Exit(1), [], lack=gpu_missing()).cause == "gpu-missing"
    assert own(Exit(1), ["error: invalid argument: --x"], lack=gpu_missing()).cause == "unknown-option"
    assert own(Exit(0), [], lack=gpu_missing()).cause == "ended"
    assert own(Exit(signal=11), [], lack=gpu_missing()).cause == "segfault"


@pytest.mark.parametrize(
    ("line", "missing", "doubt"),
    [
        ("warning: no usable GPU found, --gpu-layers option will be ignored", True, None),
        (
            "warning: llama.cpp was compiled without support for GPU offload. Setting the split mode has no effect.",
            True,
            None,
        ),
        (
            "E ggml_cuda_init: failed to initialize CUDA: no CUDA-capable device is detected",
            False,
            "failed to initialize CUDA: no CUDA-capable device is detected",
        ),
        (
            "ggml_cuda_init: failed to initialize ROCm: no ROCm-capable device is detected",
            False,
            "failed to initialize",
        ),
        ("Unable to open /dev/kfd read-write: Permission denied", False, "Unable to open /dev/kfd read-write"),
        ("0.00.1 I ggml_vulkan: No devices found.", False, "ggml_vulkan: No devices found."),
        ("0.00.1 I srv  load_model: loading model", False, None),
    ],
)
def test_what_a_line_says_of_gpus(line: str, doubt: str | None, *, missing: bool) -> None:
    signs = DeviceSigns()
    assert signs.read(line) == (missing or doubt is not None)
    assert signs.no_gpu == missing
    assert (signs.doubt or "").startswith(doubt or "")
    assert (signs.doubt is None) == (doubt is None)


def test_what_it_goes_on_without_counts_where_it_was_told_to_use_it() -> None:
    signs = DeviceSigns()
    assert signs.lack(gpus=True, rpc=True) is None
    assert signs.read("0.00.2 E Failed to connect to 10.0.0.7:50052")
    assert signs.lack(gpus=True, rpc=False) is None
    found = signs.lack(gpus=False, rpc=True)
    assert found is not None
    assert (found.cause, found.passing) == ("rpc-server-gone", True)
    assert signs.read("warning: no usable GPU found")
    assert signs.lack(gpus=True, rpc=True) == gpu_missing()


def test_the_strings_of_a_model_say_nothing_of_gpus() -> None:
    """They are printed once it is opened: its template is shown with its own line breaks."""
    signs = DeviceSigns()
    assert not signs.read("0.00.1 I srv  load_model: loading model '/m.gguf'")
    assert not signs.read("warning: no usable GPU found")
    assert not signs.no_gpu


# --- what a client may have written

FORGED = [line for row in LINES for line in row[0].split("\n")]
"""Every line that would name a cause."""


@pytest.mark.parametrize("served", [True, False])
@pytest.mark.parametrize(
    "ended", [Exit(1), Exit(127), Exit(0), Exit(), *(Exit(signal=number) for number in (4, 6, 7, 9, 11))], ids=str
)
def test_no_line_that_a_client_may_have_written_is_a_reason_to_give_up(ended: Exit, *, served: bool) -> None:
    for line in FORGED:
        found = diagnose(ended, LastLines(since=[line], served=served), rpc=True)
        plain = diagnose(ended, LastLines(served=served), rpc=True)
        assert plain.permanent or not found.permanent, line
        assert not (served and found.permanent), line


@pytest.mark.parametrize("line", FORGED)
def test_such_a_line_does_not_explain_how_it_ended_with_the_words_of_a_start(line: str) -> None:
    start_only = {row[1] for row in LINES} - {"out-of-gpu-memory", "out-of-memory", "gpu-error", "rpc-server-gone"}
    for ended in (Exit(1), Exit(signal=6), Exit(signal=11)):
        assert diagnose(ended, LastLines(since=[line], served=True), rpc=True).cause not in start_only


def test_lines_from_before_it_was_ready_explain_no_later_end() -> None:
    lines = LastLines(own=["error: invalid argument: --foo"], served=True)
    assert diagnose(Exit(1), lines).cause == "exit-code"
    assert diagnose(Exit(1), lines).message == "it ended with exit code 1, without a word"


def test_a_lack_of_memory_explains_a_crash_of_one_that_served() -> None:
    found = diagnose(Exit(signal=6), LastLines(since=CUDA_OOM.split("\n"), served=True))
    assert (found.cause, found.permanent) == ("out-of-gpu-memory", False)
    assert diagnose(Exit(signal=9), LastLines(since=CUDA_OOM.split("\n"), served=True)).cause == "killed"


@pytest.mark.parametrize(
    "line",
    [
        "secret words of another client",
        "E CUDA error: secret words of another client",
        "/b/x.cpp:3: secret words of another client",
        "  what():  secret words of another client",
        "allocating 1.00 MiB on device 0: cudaMalloc failed: out of memory: secret words of another client",
        "failed to allocate CUDA0 buffer: secret words of another client",
        "Failed to connect to secret.words:1",
    ],
)
@pytest.mark.parametrize("ended", [Exit(1), Exit(), Exit(signal=6), Exit(signal=11)], ids=str)
def test_no_client_reads_what_another_one_wrote(line: str, ended: Exit) -> None:
    for served in (True, False):
        found = diagnose(ended, LastLines(since=[line], served=served), rpc=True)
        assert "secret" not in found.for_clients
        assert str(ended) in found.for_clients or found.public is None
    if ended in (Exit(1), Exit()) and line.startswith("secret"):
        assert f'its last words: "{line}"' in found.message


def test_what_an_operator_may_do_is_said_to_clients_too() -> None:
    found = own(Exit(1), ["E gguf_init_from_file: failed to open GGUF file '/m/a.gguf' (No such file or directory)"])
    assert found.for_clients == str(found)


# --- rpc-servers


@pytest.mark.parametrize("lines", [LINES[0][0], LINES[1][0]])
@pytest.mark.parametrize("ended", [Exit(1), Exit(signal=6), Exit(signal=11)], ids=str)
@pytest.mark.parametrize("served", [True, False])
def test_a_lost_rpc_server_is_named_whatever_it_did(lines: str, ended: Exit, *, served: bool) -> None:
    told = lines.split("\n")
    where = LastLines(since=told, served=True) if served else LastLines(own=told)
    found = diagnose(ended, where, rpc=True)
    assert (found.cause, found.permanent, found.passing) == ("rpc-server-gone", False, True)
    assert diagnose(ended, where).cause != "rpc-server-gone"  # it was never told to use one


@pytest.mark.parametrize(
    ("ended", "unexplained"),
    [(Exit(1), True), (Exit(), True), (Exit(127), True), (Exit(signal=6), True), (Exit(signal=9), False)],
)
def test_which_end_is_worth_a_look(ended: Exit, *, unexplained: bool) -> None:
    assert is_unexplained(own(ended, [])) is unexplained
    assert not is_unexplained(own(Exit(1), ["error: invalid argument: --foo"]))


def test_an_exit_in_words() -> None:
    assert [str(one) for one in (Exit(3), Exit(signal=11), Exit(signal=77), Exit())] == [
        "exit code 3",
        "killed by SIGSEGV",
        "killed by signal 77",
        "exit status unknown",
    ]


def test_what_is_quoted_is_bounded_and_printable() -> None:
    found = own(Exit(1), ["error: invalid argument: --\x1b]0;x\x07" + "a" * 5000])
    assert found.message.isprintable()
    assert len(found.message) < MAX_QUOTED + 60


@given(
    st.one_of(st.none(), st.integers(0, 255)),
    st.one_of(st.none(), st.integers(1, 64)),
    st.lists(st.text(max_size=80), max_size=5),
    st.integers(0, 2),
)
def test_no_end_is_without_a_failure(code: int | None, number: int | None, lines: list[str], oom_kills: int) -> None:
    found = own(Exit(code, number), lines, oom_kills=oom_kills)
    assert found.cause
    assert found.message
    assert found.hint

"""Reports from the field, kind 15: a process whose output, memory, terminal or locale fails it."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import dpaat.training
from dpaat.cli import main
from dpaat.data import cache
from dpaat.errors import UserError, out_of_memory, require_printable
from dpaat.methods import Method
from dpaat.runs import open_run
from dpaat.terminal import Output
from dpaat.training import train
from dpaat.training.module import TrainingModule
from training_makers import checkpoint, fails, make_images, metrics, tiny_arguments, tiny_config

DPAAT = [sys.executable, "-m", "dpaat"]
C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
QUICK = {"method": "standard", "val_eps": "0"}


@pytest.fixture(autouse=True)
def _terminal() -> Iterator[None]:
    """Tests that run in the background ignore what a terminal sends when it is closed."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def head(arguments: list[str], *, closed: str = "stdout") -> tuple[int, str]:
    """Run a command whose reader leaves at the first byte; returns its exit code and the other stream."""
    read, write = os.pipe()
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, closed: write}
    with subprocess.Popen(
        [*DPAAT, *arguments], **streams, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    ) as process:
        os.close(write)
        if closed == "stdout":
            os.read(read, 1)
        os.close(read)
        out, err = process.communicate(timeout=120)
    return process.returncode, out if closed == "stderr" else err


# --- closed pipes: sgkit-dev/vcztools#114, trailofbits/graphtage#156


def test_a_training_goes_on_when_nobody_reads_it(tiny_images: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert head([*tiny_arguments(tiny_images, **QUICK, epochs=3), f"--out={run}"]) == (0, "")
    assert json.loads((run / "run.json").read_text())["status"] == "finished"
    assert len(metrics(run)) == 3
    assert checkpoint(run)["epoch"] == 2


@pytest.mark.parametrize("arguments", [["list", "methods"], ["data", "check", "synthetic:60"]])
def test_other_commands_end_quietly(arguments: list[str]) -> None:
    assert head(arguments) == (0, "")


def test_errors_that_nobody_reads() -> None:
    assert head(["nonsense"], closed="stderr") == (2, "")


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_streams_that_were_closed_before(tiny_run: Path, stream: str) -> None:
    closing = {"stdout": ">&-", "stderr": "2>&-"}[stream]
    command = ["sh", "-c", f'exec "$@" {closing}', "sh", *DPAAT, "train", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert ("dpaat" in done.stdout) == (stream == "stderr")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_not_a_reader_that_has_gone() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*DPAAT, "list", "methods"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("dpaat: error: No space left on device")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("number", [errno.EPIPE, errno.EIO])  # EIO: a terminal that was closed
def test_output_is_dropped_for_good(tmp_path: Path, number: int) -> None:
    class Gone:
        writes = 0

        def __init__(self) -> None:
            self.file = (tmp_path / "out").open("w")

        def fileno(self) -> int:
            return self.file.fileno()

        def write(self, text: str) -> None:
            self.writes += 1
            raise OSError(number, os.strerror(number))

    stream = Gone()
    output = Output(stream, all_errors=False)  # type: ignore[arg-type]
    assert output.write("text") == 4
    os.write(stream.fileno(), b"what Python still holds back")
    assert (tmp_path / "out").read_bytes() == b""
    stream.file.close()


# --- memory of the host: open-edge-platform/anomalib#1094, wuyifan18/DeepLog#50

ALLOCATOR = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "278528000 bytes. Error code 12 (Cannot allocate memory)"
)
EXHAUSTED = [
    MemoryError(),
    np._core._exceptions._ArrayMemoryError((2**40,), np.dtype(np.uint8)),  # type: ignore[attr-defined]
    RuntimeError(ALLOCATOR),
    RuntimeError("could not create a primitive"),  # oneDNN
    RuntimeError("MPS backend out of memory"),
    torch.OutOfMemoryError("CUDA out of memory."),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
]


def test_what_exhausted_memory_looks_like() -> None:
    assert all(map(out_of_memory, EXHAUSTED))
    others = [RuntimeError("shapes do not fit"), OSError(errno.ENOSPC, "No space left on device"), ValueError("memory")]
    assert not any(map(out_of_memory, others))


def raising(error: BaseException):
    def act(*arguments: object, **options: object) -> None:
        raise error

    return act


@pytest.mark.parametrize("error", EXHAUSTED, ids=lambda error: f"{type(error).__name__}: {error}"[:40])
def test_a_training_names_a_batch_size_that_fits(
    tiny_images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    error: Exception,
) -> None:
    genuine = Method.__call__

    def hungry(self: Method, model: object, index: torch.Tensor, *rest: object) -> object:
        if len(index) > 5:
            raise error
        return genuine(self, model, index, *rest)

    monkeypatch.setattr(Method, "__call__", hungry)
    arguments = [*tiny_arguments(tiny_images, **QUICK), f"--out={tmp_path / 'run'}"]
    fails(capfd, *arguments, names=("too little memory for --batch-size 16; about 4 would fit",))


@pytest.mark.parametrize("error", EXHAUSTED[:3], ids=["python", "numpy", "torch"])
@pytest.mark.parametrize(
    ("command", "remedy"),
    [
        (["evaluate", "RUN", "--attack=fgsm", "--device=cpu"], "--batch-size 128; try --batch-size 64"),
        (["explain", "RUN", "--device=cpu", "--batch-size=8"], "--batch-size 8; try --batch-size 4"),
        (["predict", "RUN", "IMAGES", "--device=cpu", "--batch-size=16"], "--batch-size 16; try --batch-size 8"),
    ],
)
def test_commands_name_a_smaller_batch(
    tiny_run: Path,
    tiny_images: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    error: Exception,
    command: list[str],
    remedy: str,
) -> None:
    from dpaat.models import Classifier

    monkeypatch.setattr(Classifier, "forward", raising(error))
    places = {"RUN": str(tiny_run), "IMAGES": str(tiny_images)}
    assert remedy in fails(capfd, *(places.get(word, word) for word in command))


def test_memory_that_ends_while_decoding_is_not_blamed_on_the_file(
    tiny_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cache, "decode_image", raising(MemoryError()))
    arguments = [*tiny_arguments(tiny_images, **QUICK), f"--out={tmp_path / 'run'}", f"--cache={tmp_path / 'cache'}"]
    error = fails(capfd, *arguments, names=("too little memory", "--image-size"))
    assert ".png" not in error


def test_memory_that_ends_while_a_checkpoint_is_read_is_not_blamed_on_it(
    tiny_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run = train(tiny_config(tiny_images, **QUICK), tmp_path / "run", stop_after=1)
    monkeypatch.setattr(dpaat.training.checkpointing, "read_weights", raising(MemoryError()))
    assert "damaged" not in fails(capfd, "train", f"--out={run}", "--resume", names=("too little memory",))


def test_a_real_limit(tiny_run: Path, tiny_images: Path, tmp_path: Path) -> None:
    script = (
        "import resource, sys, torch; from pathlib import Path; import dpaat.evaluation.predict\n"
        "from dpaat.cli import main\n"
        "pages = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        "whole = torch.Tensor.float\n"
        "torch.Tensor.float = lambda x: whole(x).expand(300, *x.shape).clone()[0] if x.ndim == 4 else whole(x)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (pages + 600 * 2**20,) * 2)\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    make_images(tmp_path / "many", count=200)
    command = [sys.executable, "-c", script, "predict", tiny_run, tmp_path / "many", "--batch-size=200", "--device=cpu"]
    if not Path("/proc/self/statm").exists() or resource.getrlimit(resource.RLIMIT_AS)[1] != resource.RLIM_INFINITY:
        pytest.skip("no limit can be set here")
    done = subprocess.run([*command, f"--out={tmp_path / 'p.csv'}"], capture_output=True, text=True, timeout=120)
    assert done.stderr.splitlines()[-1] == "dpaat: error: too little memory for --batch-size 200; try --batch-size 100"
    assert done.returncode == 2


def test_a_loading_process_that_is_killed(
    tiny_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from dpaat.data.loading import SplitDataset

    def killed(self: SplitDataset, positions: list[int]) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(SplitDataset, "__getitems__", killed)
        arguments = [*tiny_arguments(tiny_images, **QUICK, workers=1), f"--out={run}"]
        fails(capfd, *arguments, names=("one of 1 loading processes was killed", f"--out {run} --resume --workers 0"))
    assert main(["train", f"--out={run}", "--resume", "--workers=0"]) == 0  # and what is advised works


# --- the terminal is closed: borgbackup/borg#1593, Lightning-AI/pytorch-lightning#1455


def signalled(monkeypatch: pytest.MonkeyPatch, *signals: int) -> None:
    """Send signals in the second step."""
    genuine = TrainingModule.training_step

    def training_step(self: TrainingModule, batch: object, batch_idx: int) -> torch.Tensor:
        if self.trainer.fit_loop.total_batch_idx == 1:
            for signum in signals:
                os.kill(os.getpid(), signum)
        return genuine(self, batch, batch_idx)

    monkeypatch.setattr(TrainingModule, "training_step", training_step)


@pytest.mark.parametrize(
    ("signals", "code"),
    [
        ([signal.SIGHUP], 129),
        ([signal.SIGHUP] * 2, 129),  # from the kernel and from the shell
        ([signal.SIGTERM, signal.SIGHUP], 143),  # as systemd ends a session
        ([signal.SIGHUP, signal.SIGTERM], 143),
    ],
)
def test_a_hang_up_saves_the_run(
    tiny_images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    signals: list[int],
    code: int,
) -> None:
    run, handler = tmp_path / "run", signal.getsignal(signal.SIGHUP)
    signalled(monkeypatch, *signals)
    assert main([*tiny_arguments(tiny_images, **QUICK, save_every=1000), f"--out={run}"]) == code
    name = "the terminal was closed" if code == 129 else "told to end"
    assert (
        f"{name}; saved in epoch 1 after step 2; go on with: dpaat train --out {run} --resume" in capfd.readouterr().err
    )
    assert checkpoint(run)["global_step"] == 2
    assert signal.getsignal(signal.SIGHUP) == handler
    assert main(["train", f"--out={run}", "--resume"]) == 0


def test_a_second_signal_still_does_not_wait(
    tiny_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signalled(monkeypatch, signal.SIGHUP, signal.SIGTERM, signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        train(tiny_config(tiny_images, **QUICK, save_every=1000), tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()


def test_nohup_is_respected(tiny_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # sigp/lighthouse#3567
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        signalled(monkeypatch, signal.SIGHUP)
        run = train(tiny_config(tiny_images, **QUICK), tmp_path / "run")
        assert open_run(run).info["status"] == "finished"
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_benchmark_takes_a_hang_up_for_an_interruption() -> None:
    from dpaat.benchmark.runner import _told_to_end
    from dpaat.errors import Interrupted

    with pytest.raises(Interrupted) as caught, _told_to_end():
        os.kill(os.getpid(), signal.SIGHUP)
    assert caught.value.exit_code == 129


# --- names that are not ASCII in a locale that is: NVIDIA/DIGITS#114, hooram/ownphotos#85


@pytest.fixture(scope="module")
def umlauts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("names") / "Mü"
    make_images(folder / "bilder")
    for old, new in (("c0", "Nävus"), ("c1", "黑色素瘤")):
        (folder / "bilder" / old).rename(folder / "bilder" / new)
    for path in (folder / "bilder" / "Nävus").iterdir():
        path.rename(path.with_name("ö" + path.name))
    return folder


def test_names_in_a_c_locale(umlauts: Path) -> None:
    run, images = umlauts / "läuf", umlauts / "bilder"
    commands = [
        ["data", "check", f"folder:{images}", "--image-size=32", f"--export={umlauts / 'spält.csv'}"],
        [*tiny_arguments(images, **QUICK, epochs=1), f"--out={run}"],
        ["evaluate", f"{run}", "--attack=fgsm", "--eps=2/255", "--device=cpu"],
        ["predict", f"{run}", f"{images}", f"--out={umlauts / 'vörher.csv'}", "--device=cpu"],
        ["report", f"{run}", f"--out={umlauts / 'bericht.html'}"],
    ]
    # What a command does at its start, and then all of them in one process.
    script = (
        "import sys; from dpaat import cli; cli.use_utf8(); print([cli.main(each.split('|')) for each in sys.argv[1:]])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *map("|".join, commands)],
        capture_output=True,
        timeout=200,
        env={**os.environ, **C_LOCALE},
    )
    assert done.stderr == b""
    assert done.stdout.endswith(b"[0, 0, 0, 0, 0]\n")
    assert done.stdout.isascii()  # what the terminal lacks is escaped
    assert b"N\\xe4vus" in done.stdout
    assert "Nävus/ö000.png," in (umlauts / "spält.csv").read_text(encoding="utf-8")
    opened = open_run(run)  # what was written reads the same elsewhere
    assert opened.info["classes"] == ["Nävus", "c2", "黑色素瘤"]
    assert opened.config.data == f"folder:{images}"
    assert opened.prepare(progress=False).fingerprint == opened.info["fingerprint"]
    assert "probability_Nävus,probability_c2,probability_黑色素瘤" in (umlauts / "vörher.csv").read_text(
        encoding="utf-8"
    )
    assert "Nävus" in (umlauts / "bericht.html").read_text(encoding="utf-8")


def test_the_encoding_that_was_asked_for_is_kept(umlauts: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1", **C_LOCALE}
    command = [*DPAAT, "data", "check", f"folder:{umlauts / 'bilder'}", "--image-size=32"]
    shown = subprocess.run(command, capture_output=True, timeout=120, env=environment).stdout
    assert "Nävus".encode("latin-1") in shown
    assert b"\\u9ed1\\u8272" in shown


def test_a_name_is_not_blamed_for_the_encoding_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    name = os.fsencode("Nävus").decode("ascii", "surrogateescape")
    with pytest.raises(UserError, match="is not Unicode; rename it"):
        require_printable([name], "folder")
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    with pytest.raises(UserError, match=r"this process reads the names of files as ascii.*PYTHONUTF8=1"):
        require_printable([name], "folder")

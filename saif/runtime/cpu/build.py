"""The compiled decoding step: made at set-up, kept in the cache, and opened where it fits.

Nothing is compiled while somebody waits for a reply. Where there is no library for this source and
this processor, everything runs without one.
"""

import ctypes
import functools
import hashlib
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from saif.errors import ModelError
from saif.runtime.embedded import cache_root

_SOURCE = Path(__file__).parent / "csrc"
# Contraction is off because a compiler contracts the same sum in one copy of a loop and not in
# another, and a row's bits would depend on the rows beside it; gemm.h fuses where it says so.
_OPTIONS = ("-std=gnu11", "-O3", "-march=native", "-ffp-contract=off", "-shared", "-fPIC")
_COMPILERS = ("cc", "gcc", "clang")
_WORKS_WITHOUT = "Everything works without it, only more slowly."


def library_path() -> Path:
    """Where the library for this source and this very processor belongs: one that is made for
    another ends the process at its first unknown instruction."""
    source = b"".join(path.read_bytes() for path in sorted(_SOURCE.iterdir()))
    made_for = hashlib.sha256(source + repr(_OPTIONS).encode() + _processor())
    return cache_root() / f"native-{made_for.hexdigest()[:16]}.so"


@functools.cache
def library() -> ctypes.CDLL | None:
    """The library, if it was made here."""
    path = library_path()
    try:
        return ctypes.CDLL(str(path)) if path.is_file() else None
    except OSError:  # damaged, or made for another system
        return None


def describe() -> str:
    """Whether there is a library, and for which instructions, for people."""
    found = library()
    if found is None:
        return "not compiled; where there is a C compiler, `make setup` makes replies faster"
    return f"compiled for {kernel(found)}"


def kernel(found: ctypes.CDLL) -> str:
    """Which instructions a library was compiled for."""
    name = found.saif_kernel
    name.restype = ctypes.c_char_p
    return str(name().decode())


def compile_library() -> Path:
    """Make the library, which takes a few seconds. Raises ModelError where that can't be done."""
    compiler = next(filter(None, map(shutil.which, _COMPILERS)), None)
    if compiler is None:
        raise ModelError(
            "There is no C compiler here.",
            hint="To have that, install gcc or clang and run `make setup` again.",
        )
    path = library_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            draft = Path(folder) / path.name
            command = [compiler, *_OPTIONS, str(_SOURCE / "decode.c"), "-o", str(draft)]
            # macOS's own compiler knows no OpenMP; a step has one thread then.
            for threads in (["-fopenmp"], []):
                done = subprocess.run([*command, *threads], capture_output=True, text=True)
                if done.returncode == 0:
                    draft.replace(path)
                    break
    except OSError as error:  # no room, no right to write, or a compiler that doesn't start
        raise ModelError(
            f"The decoding step could not be compiled: {error}.", hint=_WORKS_WITHOUT
        ) from error
    if done.returncode:
        said = done.stderr.strip().partition("\n")[0] or "it says nothing"
        raise ModelError(
            f"{compiler} could not compile the decoding step: {said}", hint=_WORKS_WITHOUT
        )
    library.cache_clear()
    if library() is None:
        raise ModelError("What was compiled can't be opened.", hint=_WORKS_WITHOUT)
    return path


def _processor() -> bytes:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor().encode() + platform.machine().encode()
    kinds = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(kinds)})).encode()

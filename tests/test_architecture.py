"""The layering, the confinements and the cost of an import, enforced."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SAIF = ROOT / "saif"

LAYERS = [  # lowest first; rooms on one row are independent of each other
    {"errors"},
    {"files", "provenance", "ports", "background", "progress"},
    {"core"},
    {"presets", "runtime", "report"},
    {"decoding"},
    {"scheduler"},
    {"engine"},
    {"chat"},
    {"experiments", "study"},
    {"api"},
    {"ui", "cli"},
    {"__main__"},
]
STUDY_LAYERS = [  # the rooms of `saif/study`, likewise
    {"design"},
    {"store"},
    {"participation", "durability"},
    {"opening", "data"},
    {"analysis", "server"},
    {"simulation"},
]
RANK = {room: rank for rank, row in enumerate(LAYERS) for room in row}
STUDY_RANK = {room: rank for rank, row in enumerate(STUDY_LAYERS) for room in row}

ONLY_IN = {  # packages that only these files or folders may import
    "gradio": ("ui/",),
    "gradio_client": ("ui/",),
    "transformers": ("runtime/",),
    "bitsandbytes": ("runtime/",),
    "accelerate": ("runtime/",),
    "huggingface_hub": ("runtime/",),
    "sae_lens": ("runtime/", "experiments/train_sae/"),
    "typer": ("cli/", "ui/launch.py"),
    "fastapi": ("study/server/",),
    "starlette": ("study/server/",),
    "uvicorn": ("study/server/",),
    "openai": ("experiments/judge/client.py",),
}
NOWHERE = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "transformer_lens"}
HOOK_MAKERS = {
    "register_forward_hook",
    "register_forward_pre_hook",
    "register_full_backward_hook",
    "register_module_forward_hook",
    "register_module_forward_pre_hook",
}
SHAPELESS = {"utils", "util", "helpers", "common", "misc"}

FILES = sorted(SAIF.rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(SAIF).as_posix()


def room_of(path: Path) -> str:
    return path.relative_to(SAIF).with_suffix("").parts[0]


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def imports(path: Path) -> Iterator[str]:
    """Every module a file imports anywhere in it, `if TYPE_CHECKING` and functions included."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_room_has_its_place() -> None:
    assert {room_of(path) for path in FILES} - {"__init__"} <= set(RANK)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_only_point_down(path: Path) -> None:
    room = room_of(path)
    for name in imports(path):
        package, _, rest = name.partition(".")
        if package != "saif" or room == "__init__":  # which names for type checkers what it offers
            continue
        target = rest.partition(".")[0]
        if target in RANK and target != room:  # `from saif import __version__` has no room
            assert RANK[target] < RANK[room], f"{name_of(path)} imports {name}"


STUDY_FILES = [path for path in FILES if name_of(path).startswith("study/")]


@pytest.mark.parametrize("path", STUDY_FILES, ids=name_of)
def test_imports_within_a_study_only_point_down(path: Path) -> None:
    room = path.relative_to(SAIF / "study").with_suffix("").parts[0]
    for name in imports(path):
        if name.startswith("saif.study.") and room != "__init__":
            target = name.split(".")[2]
            assert target == room or STUDY_RANK[target] < STUDY_RANK[room], (
                f"{name_of(path)} imports {name}"
            )


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_heavy_and_dangerous_packages_stay_in_their_room(path: Path) -> None:
    for name in imports(path):
        package = name.partition(".")[0]
        assert package not in NOWHERE, f"{name_of(path)} imports {package}"
        if package in ONLY_IN:
            assert name_of(path).startswith(ONLY_IN[package]), f"{name_of(path)} imports {package}"


def test_only_one_file_touches_pytorch_hooks() -> None:
    users = {
        name_of(path)
        for path in FILES
        for node in ast.walk(tree_of(path))
        if (isinstance(node, ast.Attribute) and node.attr in HOOK_MAKERS)
        or (isinstance(node, ast.Constant) and node.value in HOOK_MAKERS)
    }
    assert users == {"runtime/hooks.py"}


def test_nothing_that_runs_code_from_a_file_is_called() -> None:
    """No pickle by another name: torch.load, numpy with allow_pickle, unsafe YAML, eval."""
    for path in FILES:
        for node in ast.walk(tree_of(path)):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            assert called not in {"torch.load", "yaml.load", "yaml.unsafe_load", "eval", "exec"}, (
                f"{name_of(path)} calls {called}"
            )
            for keyword in node.keywords:
                allows = keyword.arg in {"allow_pickle", "trust_remote_code"}
                assert not allows or ast.unparse(keyword.value) == "False", name_of(path)


def test_no_context_manager_that_touches_the_model_spans_a_yield() -> None:
    """A hook, a lock or inference mode held across a `yield` outlives Stop and a closed tab."""
    touching = ("_lock", "edit_outputs", "read_outputs", "inference_mode", "no_grad")
    for path in FILES:
        if name_of(path) == "runtime/hooks.py":  # where those context managers are made
            continue
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.With) and any(
                word in ast.unparse(item.context_expr) for item in node.items for word in touching
            ):
                inside = {type(child) for child in ast.walk(node)}
                assert not inside & {ast.Yield, ast.YieldFrom}, f"{name_of(path)}:{node.lineno}"


def test_files_are_short_and_have_a_name_that_says_something() -> None:
    too_long = {
        name_of(path): n for path in FILES if (n := len(path.read_text("utf-8").splitlines())) > 500
    }
    assert not too_long
    assert not {path.stem for path in FILES} & SHAPELESS


def test_every_module_says_what_it_owns() -> None:
    assert [name_of(path) for path in FILES if not ast.get_docstring(tree_of(path))] == []


def loaded_after(*statements: str) -> set[str]:
    """The modules that are in memory once the statements have run in a fresh interpreter."""
    code = "; ".join([*statements, "import sys", "print(*sorted(sys.modules))"])
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_importing_saif_costs_nothing() -> None:
    known = loaded_after("import saif")
    heavy = {"torch", "numpy", "transformers", "gradio", "sae_lens", "pydantic", "scipy"}
    assert not known & heavy


def test_listing_presets_loads_no_tensor_library() -> None:
    known = loaded_after(
        "import saif.presets.library, saif.presets.controls",
        "import saif.runtime.load",
        "from saif.presets.library import Library",
        "[i.main_wording for i in Library().instructions()]",
        "[Library().card(m, p) for m in Library().model_ids() for p in Library().preset_ids(m)]",
    )
    assert not known & {"torch", "numpy", "transformers", "gradio", "sae_lens", "safetensors"}


def test_importing_the_chat_loads_no_model_class_and_no_page() -> None:
    known = loaded_after("import saif.chat")
    assert not known & {"gradio", "sae_lens", "transformer_lens", "scipy", "datasets"}
    # The classes of one model family take ten seconds; the empty shell of the package is cheap.
    assert not {name for name in known if name.startswith(("transformers.model", "accelerate"))}

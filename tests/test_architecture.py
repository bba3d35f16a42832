"""The layering, the confinements and the cost of an import, enforced.

Each test looks at every file and names the ones at fault.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

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
DYNAMIC = {"import_module", "importlib.import_module", "__import__"}
SHAPELESS = {"utils", "util", "helpers", "common", "misc"}

LONGEST_FILE = 500
FILES = sorted(SAIF.rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(SAIF).as_posix()


def room_of(path: Path, parent: Path = SAIF) -> str:
    return path.relative_to(parent).with_suffix("").parts[0]


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


@cache
def imports(path: Path) -> tuple[str, ...]:
    """Every module or name a file imports anywhere in it, `if TYPE_CHECKING` and functions
    included."""
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in DYNAMIC:
            yield from (a.value for a in node.args if isinstance(a, ast.Constant) and a.value)


def pointing_up(
    paths: list[Path], parent: Path, rank: dict[str, int], *, package: str
) -> Iterator[str]:
    """The imports from one room of `parent` to another that isn't below it."""
    for path in paths:
        room = room_of(path, parent)
        if room == "__init__":  # the front door; what it may load is a test of its own
            continue
        for name in imports(path):
            target = name.removeprefix(f"{package}.").partition(".")[0]
            inside = name.startswith(f"{package}.") and target in rank and target != room
            if inside and rank[target] >= rank[room]:
                yield f"{name_of(path)} imports {name}"


def test_every_room_has_its_place() -> None:
    study = [path for path in FILES if path.is_relative_to(SAIF / "study")]
    assert {room_of(path) for path in FILES} - {"__init__"} <= set(RANK)
    assert {room_of(path, SAIF / "study") for path in study} - {"__init__"} <= set(STUDY_RANK)


def test_imports_only_point_down() -> None:
    assert list(pointing_up(FILES, SAIF, RANK, package="saif")) == []


def test_imports_within_a_study_only_point_down() -> None:
    study = [path for path in FILES if path.is_relative_to(SAIF / "study")]
    assert list(pointing_up(study, SAIF / "study", STUDY_RANK, package="saif.study")) == []


def test_studies_and_experiments_know_nothing_of_each_other_and_reports_know_neither() -> None:
    apart = {
        "study": ("saif.experiments",),
        "experiments": ("saif.study",),
        "report": ("saif.experiments", "saif.study"),
    }
    assert [
        f"{name_of(path)} imports {name}"
        for path in FILES
        for name in imports(path)
        if any(f"{name}.".startswith(f"{room}.") for room in apart.get(room_of(path), ()))
    ] == []


def test_no_files_import_each_other_in_a_circle() -> None:
    """Nor within a function: what may only be imported late is in the wrong file."""
    modules = {_module_of(path): path for path in FILES if path != SAIF / "__init__.py"}
    graph = {
        module: {
            found
            for name in imports(path)
            if (found := name if name in modules else name.rpartition(".")[0]) in modules
        }
        - {module}
        for module, path in modules.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(" is imported by ".join(error.args[1])) from None


def _module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_heavy_and_dangerous_packages_stay_in_their_room() -> None:
    wrong = []
    for path in FILES:
        for name in imports(path):
            package = name.partition(".")[0]
            confined = package in ONLY_IN and not name_of(path).startswith(ONLY_IN[package])
            if confined or package in NOWHERE:
                wrong.append(f"{name_of(path)} imports {package}")
    assert wrong == []


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
    touching = ("_lock", "edit_outputs", "inference_mode", "no_grad")
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
    lines = {name_of(path): path.read_text("utf-8").count("\n") for path in FILES}
    assert {name: n for name, n in lines.items() if n > LONGEST_FILE} == {}
    assert [name_of(path) for path in FILES if path.stem in SHAPELESS] == []


def test_every_module_says_what_it_owns() -> None:
    assert [name_of(path) for path in FILES if not ast.get_docstring(tree_of(path))] == []


def printed(*statements: str) -> list[str]:
    """The words that the statements print in a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(statements)],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.split()


def loaded_after(*statements: str) -> set[str]:
    """The modules that are in memory once the statements have run in a fresh interpreter."""
    return set(printed(*statements, "import sys", "print(*sorted(sys.modules))"))


def test_importing_saif_costs_nothing() -> None:
    clock = "from time import process_time as now"  # a busy machine doesn't slow it down
    assert float(printed(clock, "begun = now()", "import saif", "print(now() - begun)")[0]) < 0.3
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

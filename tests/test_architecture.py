"""The import rules and sizes of the design, read from the source: structure is a tested feature."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("posetraj_jax", "configs", "data_prep", "convert_weights", "benchmarks")
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
ENTRY_POINTS = ("train", "stages", "floor_tracks", "sample", "demo", "plan")

PREP_MAY_USE = r"posetraj_jax\.(cameras|data|errors|new_folder|tracking|trajectories|video)"
LEVELS = (
    # (module pattern, package modules it may import); the first matching row holds.
    (r"posetraj_jax$", r"$^"),
    (r"posetraj_jax\.(structs|tree|errors|picture|provenance)$", r"$^"),
    (r"posetraj_jax\.(json_file|new_folder|new_files)$", r"posetraj_jax\.errors$"),
    (r"posetraj_jax\.peers$", r"posetraj_jax\.errors$"),
    (r"posetraj_jax\.hosts$", r"posetraj_jax\.(errors|peers)$"),
    (r"posetraj_jax\.published$", r"posetraj_jax\.(errors|json_file)$"),
    (r"posetraj_jax\.nn(\.|$)", r"posetraj_jax\.(structs|tree|errors|sharding|nn)(\.|$)"),
    (r"posetraj_jax\.diffusion(\.|$)", r"posetraj_jax\.(structs|tree|errors|diffusion)(\.|$)"),
    (
        r"posetraj_jax\.data(\.|$)",
        r"posetraj_jax\.(structs|tree|errors|json_file|video|data)(\.|$)",
    ),
    (
        r"posetraj_jax\.trajectories(\.|$)",
        r"posetraj_jax\.(structs|tree|errors|json_file|new_files|video|data\.track_file"
        r"|trajectories)(\.|$)",
    ),
    # Computer vision of videos: numpy and OpenCV.
    (r"posetraj_jax\.cameras(\.|$)", r"posetraj_jax\.(structs|errors|data|cameras)(\.|$)"),
    (
        r"posetraj_jax\.tracking(\.|$)",
        r"posetraj_jax\.(structs|errors|data|cameras|tracking)(\.|$)",
    ),
    (r"posetraj_jax\.flops$", r"$^"),
    (r"posetraj_jax\.config_rules$", r"posetraj_jax\.(errors|config|structs)$"),
    (r"posetraj_jax\.config_file$", r"posetraj_jax\.(errors|config|config_rules)$"),
    (r"posetraj_jax\.video$", r"posetraj_jax\.(errors|new_files|picture)$"),
    (r"posetraj_jax\.(sharding|config)$", r"posetraj_jax\.(structs|tree|errors)$"),
    (
        r"posetraj_jax\.models\.denoiser$",
        r"posetraj_jax\.(structs|tree|errors|nn|models|sharding|diffusion\.edm|diffusion$)(\.|$)",
    ),
    (
        r"posetraj_jax\.models(\.|$)",
        r"posetraj_jax\.(structs|tree|errors|nn|models|sharding)(\.|$)",
    ),
    (r"posetraj_jax\.weights$", r"posetraj_jax\.(structs|tree|errors|json_file|nn|sharding)(\.|$)"),
    (r"posetraj_jax\.saved$", r"posetraj_jax\.(tree|models|sharding|weights)(\.|$)"),
    (r"posetraj_jax\.runs$", r"posetraj_jax\.(errors|json_file|models|saved)(\.|$)"),
    (r"posetraj_jax\.fingerprint$", r"posetraj_jax\.(tree|models)(\.|$)"),
    (r"posetraj_jax\.pretrained$", r"posetraj_jax\.(models|sharding|weights)(\.|$)"),
    (
        r"posetraj_jax\.conditioning$",
        r"posetraj_jax\.(structs|tree|errors|diffusion|published)(\.|$)",
    ),
    (
        r"posetraj_jax\.generation$",
        r"posetraj_jax\.(structs|tree|errors|diffusion|models|conditioning|sharding)(\.|$)",
    ),
    (
        r"posetraj_jax\.sampling(\.|$)",
        r"posetraj_jax\.(?!training|evaluation|configs|web"
        rf"|({'|'.join(ENTRY_POINTS)})$)",
    ),
    (
        r"posetraj_jax\.web(\.|$)",
        r"posetraj_jax\.(data$|data\.records|errors|picture|sampling|trajectories|video|web)(\.|$)",
    ),
    # What a plan reads of a compiled program knows nothing of the networks.
    (
        r"posetraj_jax\.planning\.(hlo|collectives|memory_report|work|chips|progress|plan_cache"
        r"|page)$",
        r"posetraj_jax\.planning\.hlo$",
    ),
    (r"posetraj_jax\.planning(\.|$)", r"posetraj_jax\.(?!train$|evaluation|configs|sampling|web)"),
    (
        r"posetraj_jax\.evaluation\.networks(\.|$)",
        r"posetraj_jax\.(nn|evaluation\.networks)(\.|$)",
    ),
    (
        r"posetraj_jax\.evaluation(\.|$)",
        rf"posetraj_jax\.(?!training|configs|planning|web|({'|'.join(ENTRY_POINTS)})$)",
    ),
    (r"posetraj_jax\.training(\.|$)", r"posetraj_jax\.(?!train$|evaluation|configs|sampling|web)"),
    (
        rf"posetraj_jax\.({'|'.join(ENTRY_POINTS)})$",
        rf"posetraj_jax(?!\.({'|'.join(ENTRY_POINTS)})$)",
    ),
    (r"configs(\.|$)", r"posetraj_jax(\.config)?$"),
    (
        r"data_prep\.encode_latents$",
        r"(data_prep|posetraj_jax\.(data|errors|config_file|conditioning|fingerprint|models"
        r"|pretrained|sharding|training|weights))(\.|$)",
    ),
    # Within data_prep: commands on top, then what they share, down to what knows nothing else.
    (r"data_prep\.scenes(\.|$)", r"(data_prep\.scenes|posetraj_jax\.trajectories)(\.|$)"),
    (r"data_prep\.fanout(\.|$)", rf"(data_prep\.fanout|{PREP_MAY_USE})(\.|$)"),
    (
        r"data_prep\.objects(\.|$)",
        rf"(data_prep\.(objects|scenes|fanout\.task)|{PREP_MAY_USE})(\.|$)",
    ),
    (
        r"data_prep\.engines(\.|$)",
        rf"(data_prep\.(engines|objects|scenes|fanout)|{PREP_MAY_USE})(\.|$)",
    ),
    (
        r"data_prep\.videos(\.|$)",
        rf"(data_prep\.(videos|fanout)|{PREP_MAY_USE})(\.|$)",
    ),
    (
        r"data_prep\.looking(\.|$)",
        rf"(data_prep\.(looking|engines|scenes)|{PREP_MAY_USE})(\.|$)",
    ),
    (r"data_prep(\.|$)", rf"(data_prep|{PREP_MAY_USE})(\.|$)"),
    (
        r"convert_weights(\.|$)",
        r"(convert_weights|posetraj_jax\.(models|nn|structs|tree|weights|errors|fingerprint|json_file"
        r"|new_folder|published|runs|saved|evaluation\.networks))(\.|$)",
    ),
    (r"benchmarks(\.|$)", r"."),
)

LIBRARIES = {
    # library → modules that may import it
    "flax": r"posetraj_jax\.(nn|models|evaluation\.networks)(\.|$)",
    "orbax": r"posetraj_jax\.(weights|training\.checkpoint)$",
    "torch": r"convert_weights\.oracle(\.|$)",
    "diffusers": r"convert_weights\.oracle(\.|$)",
    "transformers": r"convert_weights\.oracle(\.|$)",
    "apache_beam": r"data_prep\.fanout\.beam_tasks$",
    "bpy": r"data_prep\.engines\.blender_",
    "gradio": r"posetraj_jax\.web\.(page|handlers)$",
    "tensorflow": r"$^",
}
WITHOUT_JAX = (
    r"posetraj_jax\.(cameras|structs|config|config_rules|config_file|data|errors|json_file"
    r"|published|floor_tracks|new_files|picture|provenance|tracking|trajectories|video)(\.|$)"
    r"|data_prep(?!\.encode_latents$)|configs"
)

MOST_LINES_FILE, MOST_LINES_FUNCTION, MOST_PARAMETERS = 400, 60, 8
FORBIDDEN_NAMES = r"(utils?|common|helpers?|misc|base_.*|.*_v\d|old_.*)\.py$"


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> set[str]:
    """Full names of imported modules; `from package import module` counts as package.module."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                child = ROOT / Path(*node.module.split("."), alias.name)
                is_module = child.is_dir() or child.with_suffix(".py").exists()
                found.add(f"{node.module}.{alias.name}" if is_module else node.module)
    return found


def is_ours(name: str) -> bool:
    return name.split(".")[0] in FOLDERS


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_imports_only_what_its_level_may(path):
    module = module_name(path)
    allowed = next((row[1] for row in LEVELS if re.match(row[0], module)), None)
    assert allowed is not None, f"{module} has no row in LEVELS"
    wrong = [name for name in imports_of(path) if is_ours(name) and not re.match(allowed, name)]
    assert not wrong, f"{module} must not import {wrong}"


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_libraries_stay_in_their_place(path):
    module, tops = module_name(path), {name.split(".")[0] for name in imports_of(path)}
    misplaced = [
        lib for lib, place in LIBRARIES.items() if lib in tops and not re.match(place, module)
    ]
    assert not misplaced, f"{module} must not import {misplaced}"
    if re.match(WITHOUT_JAX, module):
        assert "jax" not in tops, f"{module} must not import jax"


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_sizes_and_names(path):
    text = path.read_text()
    assert not re.search(FORBIDDEN_NAMES, path.name)
    assert len(text.splitlines()) <= MOST_LINES_FILE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            length = node.end_lineno - node.lineno + 1
            assert length <= MOST_LINES_FUNCTION, f"{node.name} has {length} lines"
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            counted = [a for a in arguments if a.arg not in ("self", "cls")]
            assert len(counted) <= MOST_PARAMETERS, f"{node.name} has {len(counted)} parameters"


def test_no_stale_row():
    """Every rule names something that exists, so no renamed file slips out of its rule."""
    modules = [module_name(path) for path in SOURCES]
    for pattern, _ in LEVELS:
        folder = pattern.split(r"\.")[0].split("(")[0].split("$")[0]
        if (ROOT / folder).exists() and any(m.startswith(folder) for m in modules):
            assert any(re.match(pattern, module) for module in modules), pattern


def test_importing_everything_needs_neither_torch_nor_tensorflow():
    package = [m for m in map(module_name, SOURCES) if m.split(".")[0] == "posetraj_jax"]
    code = f"""
import importlib, sys
for name in {package!r}:
    importlib.import_module(name)
print([name for name in ("torch", "tensorflow", "bpy") if name in sys.modules])
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert result.stdout.strip().splitlines()[-1] == "[]"


def test_the_render_environment_needs_numpy_alone():
    """What Blender's worker imports besides Blender: its environment has nothing else."""
    shared = ("scenes.scene", "scenes.toys", "engines.annotations", "engines.raster",
              "engines.blender_worker", "objects.model_file", "fanout.lifetime")  # fmt: skip
    code = f"""
import importlib, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in sys.stdlib_module_names and top not in ("numpy", "data_prep"):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
for name in {shared!r}:
    importlib.import_module("data_prep." + name)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)

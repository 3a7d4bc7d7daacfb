"""Does the code keep to what DESIGN and the documentation say? Layers, libraries, names, sizes, commands, variables, exit codes."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import typer

import strongroom
from strongroom import errors
from strongroom.cli import INTERRUPTED
from strongroom.cli.commands import MODULES, command_line, every_command

ROOT = Path(__file__).parents[1]
SOURCE = Path(str(resources.files(strongroom)))
OPERATIONS = (ROOT / "docs" / "OPERATIONS.md").read_text()

LAYERS = [
    {"cli"},
    {""},  # the package itself: it names what the library offers
    {"serving"},  # what the daemon does with the library
    {"library"},
    {"keeping"},  # the part of it about what stays, and where
    {"governance"},  # the part of it about keys and people
    {"credentials"},
    {"operations"},
    {"policy", "access"},
    {"journal"},
    {"snapshots"},
    {"engines"},
    {"repository"},
    {"codecs"},
    {"model", "errors", "clock", "progress"},
]
DEPTH = {name: depth for depth, names in enumerate(LAYERS) for name in names}

HOMES = {
    "botocore": ("repository/key_services/aws_kms.py",),
    "chromadb": ("engines/chroma/", "cli/demo/database.py"),  # the demo has a user of its own, who knows no adapter
    "duckdb": ("engines/duckdb/",),
    "faiss": ("engines/faiss/",),
    "google": ("engines/milvus/", "repository/key_services/gcp_kms.py"),
    "grpc": ("engines/milvus/",),
    "hnswlib": ("engines/hnswlib/",),
    "httpx": ("engines/chroma/server/", "engines/qdrant/server/", "repository/key_services/vault.py"),
    "lancedb": ("engines/lancedb/",),
    "lance": ("engines/lancedb/",),
    "milvus_lite": ("engines/milvus/lite/",),
    "pkcs11": ("repository/key_services/pkcs11.py",),
    "psycopg": ("engines/pgvector/",),
    "pymilvus": ("engines/milvus/",),
    "pysqlite3": ("engines/sqlite_vec/",),
    "qdrant_client": ("engines/qdrant/server/",),
    "qdrant_edge": ("engines/qdrant/edge/",),
    "redis": ("engines/redis/",),
    "requests": ("repository/key_services/gcp_kms.py",),
    "shamir_mnemonic": ("repository/recovery_shares.py",),
    "sqlite_vec": ("engines/sqlite_vec/",),
    "usearch": ("engines/usearch/",),
    "orjson": ("engines/chroma/server/",),
    "obstore": ("repository/object_store.py",),
    "cryptography": ("repository/crypto.py",),
    "cronsim": ("policy/schedule.py",),
    "pydantic": ("policy/document.py", "policy/reading.py"),
    "yaml": ("policy/marked.py",),
    "typer": ("cli/",),
    "rich": ("cli/",),
}
LONGEST_MODULE = 450
SECRETS = ("KEY_FILE", "PASSWORD", "PASSWORD_FILE", "PASSWORD_COMMAND", "KMS")
EMPTY_WORDS = {"util", "helper", "manager", "misc", "common", "base", "core", "handler", "job", "stuff", "shared"}


def name_of(path: Path) -> str:
    """'strongroom.cli.app' of cli/app.py, 'strongroom.cli' of cli/__init__.py."""
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PATHS = {name_of(path): path.relative_to(SOURCE).as_posix() for path in sorted(SOURCE.rglob("*.py"))}


@cache
def trees() -> dict[str, ast.Module]:
    return {name: ast.parse((SOURCE / path).read_text()) for name, path in PATHS.items()}


def imports(tree: ast.AST) -> Iterator[str]:
    """The modules that a module imports anywhere, in functions and for type checking too, or names in a text to be loaded later."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in PATHS else str(node.module) for name in whole)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("strongroom."):
            yield from {node.value.partition(":")[0]} & PATHS.keys()


def layer(module: str) -> str:
    """'cli' of 'strongroom.cli.app', '' of 'strongroom'."""
    return module.split(".")[1] if "." in module else ""


def crossings(module: str, tree: ast.AST) -> set[tuple[str, str]]:
    """From which layer into which others a module of ours reaches."""
    ours = {layer(name) for name in imports(tree) if name.partition(".")[0] == "strongroom"}
    return {(layer(module), other) for other in ours - {layer(module)}}


# -- layers and libraries --------------------------------------------------------------------------------------------------


def test_every_module_has_a_layer() -> None:
    assert {layer(module) for module in PATHS} == DEPTH.keys()


def test_imports_are_found_wherever_they_stand() -> None:
    tree = ast.parse("""
if TYPE_CHECKING:
    from strongroom.operations.backup import BackupReport
def lazy():
    from strongroom import engines, open
    import strongroom.cli.app, chromadb.api
    return isolation.call("strongroom.snapshots.probes:nearest"), "strongroom.role"
""")
    ours = {"strongroom.operations.backup", "strongroom.engines", "strongroom", "strongroom.cli.app", "strongroom.snapshots.probes"}
    assert set(imports(tree)) == {*ours, "chromadb.api"}
    assert crossings("strongroom.operations.x", tree) == {("operations", name) for name in ("engines", "", "cli", "snapshots")}


def test_imports_point_downward() -> None:
    found = {(PATHS[module], *crossing) for module, tree in trees().items() for crossing in crossings(module, tree)}
    assert {one for one in found if DEPTH[one[1]] >= DEPTH[one[2]]} == set()
    steps = {(above, below) for _, above, below in found}
    assert {("cli", "library"), ("library", "operations"), ("operations", "engines"), ("snapshots", "repository")} <= steps
    assert {("engines", "errors"), ("repository", "codecs"), ("codecs", "model"), ("", "library")} <= steps


def test_parts_of_operations_know_each_other_in_one_direction() -> None:
    def part(module: str) -> str:
        return module.split(".")[2]

    known: dict[str, set[str]] = {}
    for module, tree in trees().items():
        if module.startswith("strongroom.operations."):
            reached = {part(name) for name in imports(tree) if name.startswith("strongroom.operations.")}
            known.setdefault(part(module), set()).update(reached - {part(module)})
    list(graphlib.TopologicalSorter(known).static_order())  # raises CycleError
    assert {"backup", "journal", "restore"} <= known["follow"]
    assert {"machine", "policy", "journal", "prefetch"} <= {
        name for name, below in known.items() if not below - {"machine", "prefetch"}
    }


def test_no_engine_knows_another() -> None:
    folders = {PATHS[module].split("/")[1] for module in PATHS if re.match("engines/.*/", PATHS[module])}
    common = {"indexfile", "oplog"}  # what engines have in common: it knows none of them either
    engines = {"chroma", "duckdb", "faiss", "hnswlib", "lancedb", "milvus", "pgvector", "qdrant", "redis", "sqlite_vec", "usearch"}
    assert folders == engines | common
    for module, tree in trees().items():
        known = {name.split(".")[2] for name in imports(tree) if name.startswith("strongroom.engines.")} & engines
        assert known <= {*module.split(".")[2:3]}, module


def test_libraries_stay_at_home() -> None:
    used = {(name.partition(".")[0], PATHS[module]) for module, tree in trees().items() for name in imports(tree)}
    assert {(name, path) for name, path in used if name in HOMES and not path.startswith(HOMES[name])} == set()
    homes = {(name, home) for name, places in HOMES.items() for home in places}
    idle = {(name, home) for name, home in homes if not any(one == name and path.startswith(home) for one, path in used)}
    assert idle == {("lancedb", "engines/lancedb/")}  # tables are read and written through lance


# -- names and sizes -------------------------------------------------------------------------------------------------------


def test_modules_are_short() -> None:
    lengths = {path: len((SOURCE / path).read_text().splitlines()) for path in PATHS.values()}
    assert {path: lines for path, lines in lengths.items() if lines > LONGEST_MODULE} == {}


def test_modules_are_called_after_what_they_answer() -> None:
    words = {path: {word.removesuffix("s") for word in re.split("[/_.]", path)} for path in PATHS.values()}
    assert {path for path, parts in words.items() if parts & EMPTY_WORDS} == set()


def test_every_module_says_what_it_is_for() -> None:
    assert {PATHS[module] for module, tree in trees().items() if tree.body and not ast.get_docstring(tree)} == set()


def test_the_architecture_names_every_part() -> None:
    page = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
    parts = {path.split("/")[0] + ("/" if "/" in path else "") for path in PATHS.values()} - {"__init__.py"}
    assert {part for part in parts if part not in page} == set()


# -- what people must be able to look up -----------------------------------------------------------------------------------


def commands(group: Any, path: str = "strongroom") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            if len(command.params) > 1:  # it does something itself
                yield f"{path} {name}", command
            yield from commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def documented_commands() -> set[str]:
    """From headings such as '### strongroom show, strongroom key list, add': a bare word follows the words before it."""
    found: list[str] = []
    for heading in re.findall(r"^### (strongroom .*)$", OPERATIONS, re.MULTILINE):
        for part in heading.split(","):
            words = [word for word in part.split() if word.islower() and word.isalpha()]
            before = [] if words[0] == "strongroom" else found[-1].split()[:-1]
            found.append(" ".join([*before, *words]))
    return set(found)


def test_every_command_is_documented_and_no_other() -> None:
    assert documented_commands() == {name for name, _ in commands(typer.main.get_command(every_command()))}


def test_one_command_needs_its_own_module_alone() -> None:
    whole = dict(commands(typer.main.get_command(every_command())))
    firsts = {path.split()[1] for path in whole}
    assert firsts == {first for names in MODULES.values() for first in names.split()}
    for first in firsts:
        alone = dict(commands(typer.main.get_command(command_line([first, "--help"]))))
        assert alone.keys() == {path for path in whole if path.split()[1] == first}
    for module, names in MODULES.items():
        code = f"import sys; from strongroom.cli.commands import command_line; command_line({names.split()[:1]})"
        code += "; print(*(name for name in sys.modules if name.startswith('strongroom.cli.')))"
        loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
        assert f"strongroom.cli.{module}" in loaded
        others = {f"strongroom.cli.{one}" for one, theirs in MODULES.items() if not set(theirs.split()) & set(names.split())}
        assert len(others & set(loaded)) < 5
    assert typer.main.get_command(command_line(["--reason", "x"])).commands.keys() == firsts


def test_arrow_does_not_load_pandas_for_a_command_and_knows_no_less_later() -> None:
    code = """
import sys, pyarrow as pa
from strongroom.engines.without_pandas import do_without_pandas
do_without_pandas()
assert pa.array([1, 2]).to_pylist() == [1, 2] and "pandas" not in sys.modules
import pandas
assert pa.array(pandas.Series([1, 2])).to_pylist() == [1, 2]
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_option_is_documented() -> None:
    options = {
        (name, option)
        for name, command in commands(typer.main.get_command(every_command()))
        for parameter in command.params
        for option in parameter.opts
        if option.startswith("--")
    }
    assert len(options) > 30
    assert {(name, option) for name, option in options if not re.search(rf"{option}(?![\w-])", OPERATIONS)} == set()


def variables() -> set[str]:
    """Those that the source names, and those that `credentials` puts together of a prefix and a name."""
    texts = [node.value for tree in trees().values() for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    found = {name for text in texts if isinstance(text, str) for name in re.findall("STRONGROOM_[A-Z_]*", text)}
    prefixes = {name for name in found if name.endswith("_")}
    return (found - prefixes) | {prefix + name for prefix in prefixes for name in SECRETS}


def documented_variables() -> set[str]:
    rows = "\n".join(line.split("|")[1] for line in OPERATIONS.splitlines() if line.startswith("| `STRONGROOM_"))
    return set(re.findall("STRONGROOM_[A-Z_]+", rows))


def test_every_variable_is_documented_and_no_other() -> None:
    assert "STRONGROOM_NEW_PASSWORD_COMMAND" in variables()
    assert documented_variables() == variables()


def exit_codes() -> set[int]:
    """Of success, of Ctrl-C, of every error, and of commands that end with one."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.StrongroomError)]
    calls = [
        node for module, tree in trees().items() if layer(module) == "cli" for node in ast.walk(tree) if isinstance(node, ast.Call)
    ]
    exits = [call.args[0] for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "Exit"]
    return {0, INTERRUPTED} | {kind.exit_code for kind in kinds} | {code.value for code in exits if isinstance(code, ast.Constant)}


def test_every_exit_code_is_documented_and_no_other() -> None:
    table = OPERATIONS.partition("\n## Exit codes\n")[2].partition("\n## ")[0]
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)} == exit_codes()
    assert {10, 11, 12} < exit_codes()

"""YAML with the line of each key. Plain values only: text, numbers, booleans, null. Needs PyYAML (the extra `policy`)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import yaml

from strongroom.errors import WrongRequest

Path = tuple[str | int, ...]
_MOST_VALUES = 100_000
_DEEPEST = 40


class _Loader(yaml.SafeLoader):
    """Knows YAML 1.2's plain values: `no` is a text, and so is a date."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own name


_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(true|false)$"), list("tf"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile("^(null|~|)$"), ["n", "~", ""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile("^[-+]?[0-9]{1,18}$"), list("-+0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]{1,18}\.[0-9]{1,18}$"), list("-+0123456789"))


def read(text: str) -> tuple[Any, dict[Path, int]]:
    """The document, and the line (from 1) of each key and list entry by its path. Raises WrongRequest with the line."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        raise WrongRequest(f"{where}{getattr(error, 'problem', None) or 'not YAML'}", hint="check the indentation there") from error
    except RecursionError as error:
        raise WrongRequest("it is nested too deeply", hint="see 'strongroom config schema'") from error
    if node is None:
        raise WrongRequest("it is empty", hint="see docs/OPERATIONS.md for an example")
    lines: dict[Path, int] = {}
    return _Reader(lines).value(node, ()), lines


class _Reader:
    def __init__(self, lines: dict[Path, int]) -> None:
        self._lines, self._values = lines, 0

    def value(self, node: yaml.Node, path: Path) -> Any:
        self._values += 1
        line = node.start_mark.line + 1
        self._lines.setdefault(path, line)
        if self._values > _MOST_VALUES or len(path) > _DEEPEST:
            raise WrongRequest(f"line {line}: it holds too much", hint="aliases (*name) may repeat it without end")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(one, (*path, number)) for number, one in enumerate(node.value)]
        return _scalar(node, line)

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise WrongRequest(f"line {line}: a key is a name", hint="see 'strongroom config schema'")
            if key.value in found:
                raise WrongRequest(f"line {line}: {key.value!r} is there twice", hint="leave one of them")
            self._lines[(*path, key.value)] = line
            found[key.value] = self.value(value, (*path, key.value))
        return found


def _scalar(node: yaml.Node, line: int) -> Any:
    kind, _, name = node.tag.rpartition(":")
    if kind != "tag:yaml.org,2002" or name not in ("str", "int", "float", "bool", "null"):
        raise WrongRequest(f"line {line}: a tag such as {node.tag!r} is not read", hint="write plain values")
    readers: dict[str, Callable[[str], Any]] = {"int": int, "float": float, "bool": "true".__eq__, "null": lambda _: None}
    try:
        return readers.get(name, str)(node.value)
    except ValueError as error:
        raise WrongRequest(f"line {line}: that is no {name}", hint="write a plain value") from error


def write(value: Any) -> str:
    """The same as YAML that `read` reads back: texts that look like something else are quoted."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """Line breaks of any kind are escaped: a plain or folded text would change them."""
    return dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style='"' if len(text.splitlines()) > 1 or _ODD.search(text) else None
    )


_ODD = re.compile("[\\x00-\\x1f\\x7f-\\xa0\\u2028\\u2029\\ufeff]")
_Dumper.add_representer(str, _text)

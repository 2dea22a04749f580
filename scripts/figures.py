#!/usr/bin/env python3
"""Holds figures of the source that no compiler and no lint of Clippy's holds:

- no product file over 500 lines, its inline tests included;
- no circles between the files of a crate: files that need each other, directly or by way
  of others, are one file in several pieces;
- log messages in one grammar and in plain words: what was tried and that it failed
  (`remove the journal failed`), what it was about in fields and not in the text.

What breaks a rule today is listed in figures.json beside this, with how much of it; the
list may shrink and never grows. `figures.py --shrink` takes out what is mended; `--write`
writes the list anew, for code that has moved; `--list` shows all that it is about.
"""

import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Iterator, NamedTuple, Optional

ROOT = Path(__file__).resolve().parents[1]
ALLOWED = ROOT / "scripts" / "figures.json"
MAX_LINES = 500

# In messages: what no operator would look for, and what hides which thing failed.
WORDS = (
    "amiss", "beside", "cannot", "could not", "does not go on", "for good", "former", "go on",
    "goes on", "in vain", "is no ", "kept", "let go", "lets go", "made ahead", "mend",
    "stands on", "stays behind", "told",
)
LEVELS = ("trace", "debug", "info", "warn", "error")


class Finding(NamedTuple):
    kind: str
    key: str
    amount: int
    text: str


# The source without what is no code.

CODE = re.compile(
    r"""//[^\n]*|/\*.*?\*/|b?r(?P<hash>\#*)".*?"(?P=hash)|b?"(?:\\.|[^"\\])*"|b?'(?:\\.[^']*|[^'\\\n])'""",
    re.DOTALL,
)


def blanked(text: str, strings: bool) -> str:
    """The text with its comments, and on request its strings, as spaces: places stay."""

    def blank(found: re.Match) -> str:
        piece = found.group()
        if piece.startswith("/") or strings:
            return re.sub(r"[^\n]", " ", piece)
        return piece

    return CODE.sub(blank, text)


def without_tests(code: str) -> str:
    """Blanked code without modules and items that only tests have."""
    while found := re.search(r"#\[cfg\((?:test|all\(test\b[^\]]*)\)\]", code):
        end = item_end(code, found.end())
        code = code[: found.start()] + re.sub(r"[^\n]", " ", code[found.start() : end]) + code[end:]
    return code


def item_end(code: str, start: int) -> int:
    depth = 0
    for at in range(start, len(code)):
        if code[at] in "{([":
            depth += 1
        elif code[at] in "})]":
            depth -= 1
            if depth == 0 and code[at] == "}":
                return at + 1
        elif code[at] in ";," and depth == 0:
            return at + 1
    return len(code)


def is_product(path: Path) -> bool:
    parts = path.relative_to(ROOT).parts
    if {"tests", "examples", "benches"} & set(parts[:-1]) or "src" not in parts:
        return False
    return path.name not in ("tests.rs", "testing.rs")


def product_files(root: Path = ROOT) -> list[Path]:
    found = [*root.glob("crates/*/src/**/*.rs"), *root.glob("bin/*/src/**/*.rs")]
    return sorted(path for path in found if is_product(path))


# Lines.


def long_files(files: list[Path]) -> Iterator[Finding]:
    for path in files:
        lines = path.read_text().count("\n")
        if lines > MAX_LINES:
            name = str(path.relative_to(ROOT))
            yield Finding("lines", name, lines, f"{name} has {lines} lines, more than {MAX_LINES}")


# Circles.


class Crate:
    """The modules of a crate and what they use of each other."""

    def __init__(self, files: dict[str, str]) -> None:
        """`files`: code by path below `src`, blanked and without tests."""
        self.code = {module_of(name): text for name, text in files.items()}
        self.names = {module_of(name): name for name in files}
        self.exports: dict[tuple[str, ...], dict[str, tuple[str, ...]]] = {}
        self.uses: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
        for module in self.code:
            self.read(module)

    def read(self, module: tuple[str, ...]) -> None:
        exports: dict[str, tuple[str, ...]] = {}
        uses: set[tuple[str, ...]] = set()
        code = self.code[module]
        for found in re.finditer(r"\b(pub(?:\([^)]*\))?\s+)?use\s+([^;]+);", code):
            for path, name in use_tree(found.group(2)):
                whole = absolute(module, path, set(self.code))
                if whole is None:
                    continue
                if found.group(1) and name:
                    exports[name] = whole
                else:
                    uses.add(whole)
        rest = re.sub(r"\buse\s+[^;]+;", " ", code)
        for found in re.finditer(r"\b(?:crate|super|self)(?:\s*::\s*\w+)+", rest):
            whole = absolute(module, re.split(r"\s*::\s*", found.group()), set(self.code))
            if whole is not None:
                uses.add(whole)
        self.exports[module], self.uses[module] = exports, uses

    def owner(self, path: tuple[str, ...], depth: int = 0) -> Optional[tuple[str, ...]]:
        """The file that a path leads into, past what others only hand on."""
        for length in range(len(path), -1, -1):
            module = path[:length]
            if module not in self.code:
                continue
            rest = path[length:]
            if rest and rest[0] in self.exports[module] and depth < 8:
                return self.owner(self.exports[module][rest[0]] + rest[1:], depth + 1)
            return module
        return None

    def arrows(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {name: set() for name in self.names.values()}
        for module, paths in self.uses.items():
            for path in paths:
                target = self.owner(path)
                if target is not None and target != module:
                    found[self.names[module]].add(self.names[target])
        return found


def module_of(name: str) -> tuple[str, ...]:
    parts = list(Path(name).with_suffix("").parts)
    if parts[-1] in ("mod", "lib", "main"):
        parts.pop()
    return tuple(parts)


def use_tree(text: str) -> Iterator[tuple[list[str], Optional[str]]]:
    """Each path of a `use`, and the name under which it is known after."""
    text = re.sub(r"\s+", " ", text).strip()

    def walk(prefix: list[str], tree: str) -> Iterator[tuple[list[str], Optional[str]]]:
        opening = tree.find("{")
        if opening < 0:
            path, _, alias = tree.partition(" as ")
            parts = prefix + [part.strip() for part in path.split("::") if part.strip()]
            if parts[-1] == "*":
                yield parts[:-1], None
            elif parts[-1] == "self":
                yield parts[:-1], alias.strip() or parts[-2]
            else:
                yield parts, alias.strip() or parts[-1]
            return
        outer = prefix + [part.strip() for part in tree[:opening].split("::") if part.strip()]
        for piece in split_outside(tree[opening + 1 : tree.rindex("}")]):
            yield from walk(outer, piece)

    yield from walk([], text)


def split_outside(text: str) -> list[str]:
    pieces, depth, start = [], 0, 0
    for at, char in enumerate(text):
        depth += (char == "{") - (char == "}")
        if char == "," and depth == 0:
            pieces.append(text[start:at])
            start = at + 1
    pieces.append(text[start:])
    return [piece.strip() for piece in pieces if piece.strip()]


def absolute(
    module: tuple[str, ...], path: list[str], known: set[tuple[str, ...]]
) -> Optional[tuple[str, ...]]:
    """A path from the crate's root; `None` for one into another crate."""
    if path[0] == "crate":
        return tuple(path[1:])
    base = list(module)
    rest = list(path)
    if rest[0] in ("self", "super"):
        while rest and rest[0] in ("self", "super"):
            if rest.pop(0) == "super":
                if not base:
                    return None
                base.pop()
        return tuple(base + rest)
    # A child module by its name.
    return tuple(base + rest) if tuple(base + rest[:1]) in known else None


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected components of more than one file (Tarjan)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        order[node] = low[node] = len(order)
        stack.append(node)
        for target in sorted(arrows.get(node, ())):
            if target not in order:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], order[target])
        if low[node] == order[node]:
            part = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(part) > 1:
                found.append(sorted(part))

    for node in sorted(arrows):
        if node not in order:
            visit(node)
    return sorted(found)


def all_circles(files: list[Path]) -> Iterator[Finding]:
    crates: dict[Path, dict[str, str]] = {}
    for path in files:
        source = next(parent for parent in path.parents if parent.name == "src")
        code = without_tests(blanked(path.read_text(), strings=True))
        crates.setdefault(source, {})[str(path.relative_to(source))] = code
    for source, contents in sorted(crates.items()):
        crate = str(source.parent.relative_to(ROOT))
        for circle in circles(Crate(contents).arrows()):
            names = " ".join(circle)
            text = f"{crate}: these files need each other: {names}"
            yield Finding("circles", f"{crate}: {names}", len(circle), text)


# Messages.


def messages(text: str) -> Iterator[tuple[int, str, str]]:
    """Line, level and text of each log message."""
    code = without_tests(blanked(text, strings=False))
    for found in re.finditer(rf"\b(?:tracing::)?({'|'.join(LEVELS)})!\s*\(", code):
        end = closing(code, found.end() - 1)
        said = first_text(code[found.end() : end])
        if said is not None:
            yield code[: found.start()].count("\n") + 1, found.group(1), said


def first_text(arguments: str) -> Optional[str]:
    """The first argument that is a string by itself; fields are names with values."""
    depth, begins = 0, True
    for found in re.finditer(r'"((?:\\.|[^"\\])*)"|[(){}\[\],]|[^\s]', arguments, re.DOTALL):
        piece = found.group()
        if piece[0] == '"' and begins and depth == 0:
            return re.sub(r"\\\n\s*", "", found.group(1))
        depth += (piece in "({[") - (piece in ")}]")
        begins = piece == "," and depth == 0
    return None


def closing(code: str, start: int) -> int:
    depth = 0
    for found in re.finditer(r'"(?:\\.|[^"\\])*"|[()]', code[start:], re.DOTALL):
        depth += (found.group() == "(") - (found.group() == ")")
        if depth == 0:
            return start + found.start()
    return len(code)


def complaint(said: str) -> Optional[str]:
    if re.search(r"(?<!\{)\{(?!\{)", said):
        return "put what it is about into fields"
    if said[:1].isupper() and not said[:2].isupper() or said.endswith((".", "!")):
        return "no capital at the start, no full stop at the end"
    for word in WORDS:
        if re.search(rf"\b{re.escape(word.strip())}\b", said):
            return f"not {word.strip()!r}: say what failed, as in `remove the journal failed`"
    return None


def bad_messages(files: list[Path]) -> Iterator[Finding]:
    for path in files:
        name = str(path.relative_to(ROOT))
        bad = [
            f"{name}:{line}: {said!r}: {why}"
            for line, _, said in messages(path.read_text())
            if (why := complaint(said))
        ]
        if bad:
            yield Finding("messages", name, len(bad), "\n".join(bad))


def findings(files: list[Path]) -> list[Finding]:
    return [*long_files(files), *all_circles(files), *bad_messages(files)]


def limit_of(finding: Finding, allowed: dict[str, dict[str, int]]) -> int:
    """How much of it is allowed. A circle that has lost files is the same one."""
    entries = allowed.get(finding.kind, {})
    if finding.kind != "circles":
        return entries.get(finding.key, 0)
    parts = set(finding.key.split())
    return max((limit for key, limit in entries.items() if parts <= set(key.split())), default=0)


def judge(found: list[Finding], allowed: dict[str, dict[str, int]]) -> list[str]:
    """What is worse than the list allows."""
    bad = []
    for finding in found:
        limit = limit_of(finding, allowed)
        if finding.amount > limit:
            bad.append(f"{finding.text}\n    (allowed today: {limit})" if limit else finding.text)
    return bad


def listed(found: list[Finding]) -> dict[str, dict[str, int]]:
    kinds = sorted({finding.kind for finding in found})
    return {
        kind: {f.key: f.amount for f in sorted(found) if f.kind == kind} for kind in kinds
    }


def main(arguments: list[str]) -> int:
    found = findings(product_files())
    if arguments == ["--list"]:
        print("\n".join(finding.text for finding in found))
        return 0
    allowed = json.loads(ALLOWED.read_text()) if ALLOWED.exists() else {}
    bad = [] if arguments == ["--write"] else judge(found, allowed)
    for text in bad:
        print(f"error: {text}", file=sys.stderr)
    left = listed(found)
    if arguments in (["--write"], ["--shrink"]) and not bad:
        ALLOWED.write_text(json.dumps(left, indent=2) + "\n")
    elif left != allowed and not bad:
        print("figures: less is wrong than the list allows: run scripts/figures.py --shrink")
    counts = Counter(finding.kind for finding in found)
    largest = max((f.amount for f in found if f.kind == "circles"), default=0)
    print(
        f"figures: {counts['lines']} files over {MAX_LINES} lines, {counts['circles']} circles "
        f"(the largest of {largest} files), "
        f"{sum(f.amount for f in found if f.kind == 'messages')} messages against the rule"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

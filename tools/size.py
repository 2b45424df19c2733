#!/usr/bin/env python3
"""Counts the code: `make size` prints it beside its bounds.

> python tools/size.py [ROOT]

Code lines exclude blanks, comments and docstrings. Imports of train.py include the
file itself, modules at any depth, lazy imports and the YAML file's objects.
"""

import argparse
import ast
import io
import pathlib
import re
import sys
import tokenize

ROOT = pathlib.Path(__file__).resolve().parents[1]
RECIPE, PACKAGE = "recipes/IEMOCAP/mlkd", "mlkd_lobes"
SILENT = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT)
SILENT += (tokenize.DEDENT, tokenize.ENDMARKER)
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
BOUNDS = {
    "code lines of lobes and recipe": 7850,
    "code lines of the recipe": 1300,
    "Python files of the recipe": 6,
    # Aims: 4,300 and 30. These two only keep it from growing.
    "code lines that train.py imports": 4635,
    "files that train.py imports": 43,
    "lines of train.py": 600,
    "lines of the longest other file": 450,
    "lines of the longest function": 50,
    "lines of README.md": 150,
    "lines of the longest other page": 200,
}


def docstring(node):
    """A node's docstring, as an expression."""
    first = node.body[0] if node.body else None
    text = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return first if text and isinstance(first.value.value, str) else None


def code_lines(path):
    """Number of lines that hold code."""
    source, lines = path.read_text(encoding="utf-8"), set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in SILENT:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, DOCUMENTED) and (text := docstring(node)):
            lines -= set(range(text.lineno, text.end_lineno + 1))
    return len(lines)


def n_lines(path):
    """Number of all lines."""
    return len(path.read_text(encoding="utf-8").splitlines())


def longest_function(paths):
    """Lines of the longest function, without its docstring, and its name."""
    found = [(0, "")]
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                n, text = node.end_lineno - node.lineno + 1, docstring(node)
                if text:
                    n -= text.end_lineno - text.lineno + 1
                found.append((n, f"{path.name}: {node.name}"))
    return max(found)


def imported(root):
    """The files that train.py imports, itself included, in order of names."""
    recipe = root / RECIPE
    yaml = (recipe / "hparams/mlkd.yaml").read_text(encoding="utf-8")
    pending, found = [recipe / "train.py"], set()
    names = re.findall(r"!\w+:(mlkd_lobes[\w.]+)", yaml)
    for name in names:
        pending += modules(root, name)
    while pending:
        path = pending.pop()
        if path in found:
            continue
        found.add(path)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    pending += modules(root, f"{node.module}.{alias.name}")
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    pending += modules(root, alias.name)
    return sorted(found)


def modules(root, name):
    """The files that importing a dotted name of this project loads."""
    parts, found = name.split("."), []
    for base in (root, root / RECIPE):
        for n in range(1, len(parts) + 1):
            path = base.joinpath(*parts[:n])
            for file in (path / "__init__.py", path.with_suffix(".py")):
                if file.is_file():
                    found.append(file)
    return found


def pages(root):
    """Markdown pages apart from the README."""
    places = [root, *[root / p for p in ("docs", "results", RECIPE)]]
    found = [p for place in places for p in place.rglob("*.md")]
    skipped = {".venv", ".git", PACKAGE}
    return [
        path
        for path in found
        if path != root / "README.md"
        and not skipped & {*path.relative_to(root).parts}
    ]


def measure(root):
    """All figures by name, and what holds the longest ones."""
    recipe = sorted((root / RECIPE).rglob("*.py"))
    code = [*(root / PACKAGE).rglob("*.py"), *recipe]
    train = root / RECIPE / "train.py"
    loaded = imported(root)
    lengths = [(n_lines(p), p.name) for p in code if p != train]
    texts = [(n_lines(p), str(p.relative_to(root))) for p in pages(root)]
    function = longest_function(code)
    values = [
        sum(map(code_lines, code)),
        sum(map(code_lines, recipe)),
        len(recipe),
        sum(map(code_lines, loaded)),
        len(loaded),
        n_lines(train),
        max(lengths)[0],
        function[0],
        n_lines(root / "README.md"),
        max(texts)[0],
    ]
    names = {"lines of the longest other file": max(lengths)[1]}
    names["lines of the longest function"] = function[1]
    names["lines of the longest other page"] = max(texts)[1]
    return dict(zip(BOUNDS, values)), names


def main(argv):
    """Prints the table; the exit code is 1 beyond a bound."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", nargs="?", type=pathlib.Path, default=ROOT)
    options = parser.parse_args(argv)
    found, names = measure(options.root.resolve())
    print(f"{'':36}{'now':>8}{'bound':>8}")
    for name, value in found.items():
        row = f"{name:36}{value:>8}{BOUNDS[name]:>8}"
        beyond = "  beyond" if value > BOUNDS[name] else ""
        print(f"{row}{beyond}  {names.get(name, '')}".rstrip())
    return int(any(value > BOUNDS[name] for name, value in found.items()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

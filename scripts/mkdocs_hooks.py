"""The table of routes in docs/api.md, out of docs/openapi.json as the site is made."""

import json
from pathlib import Path

MARK = "<!-- routes -->"


def routes(document: dict) -> str:
    """A heading for each tag, and under it a table of its routes with all their statuses."""
    by_tag: dict[str, list[str]] = {}
    for path, methods in document["paths"].items():
        for method, route in methods.items():
            if not isinstance(route, dict) or "responses" not in route:
                continue
            statuses = ", ".join(sorted(route["responses"]))
            row = f"| `{method.upper()} {path}` | {route.get('summary', '')} | {statuses} |"
            by_tag.setdefault((route.get("tags") or ["other"])[0], []).append(row)
    parts = []
    for tag, rows in by_tag.items():
        title = tag[0].upper() + tag[1:]
        parts += [f"## {title}\n", "| Route | | Answers |", "|---|---|---|", *rows, ""]
    return "\n".join(parts)


def on_page_markdown(markdown: str, page, config, **_) -> str:
    if page.file.src_uri != "api.md":
        return markdown
    document = json.loads((Path(config["docs_dir"]) / "openapi.json").read_text())
    assert MARK in markdown, f"docs/api.md has lost its {MARK}"
    return markdown.replace(MARK, routes(document))

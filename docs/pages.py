"""The documentation site's hook (mkdocs.yml): the repository's own files become its pages.

README, SECURITY and their like are read where they lie, never copied; links between them and into the sources are
turned into links of the site; the nav loses pages that do not exist and gains those it does not name.
"""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES = {  # page of the site -> file of the repository
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "security.md": "SECURITY.md",
    "docker.md": "docker/README.md",
    "classifiers-recipes.md": "classifiers/README.md",
    "clusters-files.md": "pipelines/clusters/README.md",
}
NOTEBOOKS = "docs/notebooks"
SOURCES = "source"  # folder of the site for files that pages link to
LINK = re.compile(r"(\]\()([^)\s#]*)(#[^)\s]*)?(\))")
DIAGRAM = re.compile(r"```mermaid\n.*?```", re.DOTALL)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Take out of the nav what does not exist, and put in what it does not name."""
    there = set(_pages())
    named: set[str] = set()
    config.nav = _existing(config.nav, there, named)
    if rest := sorted(there - named):
        config.nav.append({"More": rest})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made: of the repository's files, of notebooks, of sources that pages link to."""
    linked: set[str] = set()
    for uri, source in _pages().items():
        text = (ROOT / source).read_text(encoding="utf-8")
        linked |= {name for _, name in _outside(text, source)}
        if source.endswith(".ipynb"):
            files.append(File.generated(config, uri, content=notebook(json.loads(text))))
        elif not source.startswith("docs/"):
            files.append(File.generated(config, uri, content=text))
    for name in sorted(linked):
        files.append(File.generated(config, _source_page(name), content=_listing(name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links as they are in the repository into links of the site, and the diagram into its picture."""
    uri = page.file.src_uri
    source = _pages().get(uri)
    if source is None:
        return markdown
    if source == "docs/architecture.md":
        markdown = DIAGRAM.sub("![How the pieces fit](images/architecture.svg)", markdown)
    pages = {file: place for place, file in _pages().items()}

    def link(match: re.Match[str]) -> str:
        begin, target, anchor, end = match.groups(default="")
        place = _resolve(target, source)
        if place is None:
            return match[0]
        if place in pages:
            there = pages[place]
        elif place.startswith("docs/") and (ROOT / place).suffix != ".py":
            there = place.removeprefix("docs/")
        else:
            there = _source_page(place)
        return f"{begin}{posixpath.relpath(there, posixpath.dirname(uri) or '.')}{anchor}{end}"

    return LINK.sub(link, markdown)


def notebook(content: dict[str, Any]) -> str:
    """Return a notebook as Markdown: text, code, and the pictures and lines that its cells left."""
    parts = []
    for cell in content["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(text)
            continue
        parts.append(f"```python\n{text}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if picture := data.get("image/png"):
                parts.append(f'<img alt="output" src="data:image/png;base64,{"".join(picture).strip()}">')
            elif line := "".join(output.get("text", data.get("text/plain", ""))).rstrip():
                parts.append(f"```text\n{line}\n```")
    return "\n\n".join(parts) + "\n"


def _pages() -> dict[str, str]:
    """Page of the site -> file of the repository, for all pages that exist."""
    pages = {uri: name for uri, name in PAGES.items() if (ROOT / name).is_file()}
    for path in sorted((ROOT / "docs").rglob("*.md")):
        pages[path.relative_to(ROOT / "docs").as_posix()] = path.relative_to(ROOT).as_posix()
    for path in sorted((ROOT / NOTEBOOKS).glob("*.ipynb")):
        pages[f"notebooks/{path.stem}.md"] = path.relative_to(ROOT).as_posix()
    return pages


def _existing(nav: Any, there: set[str], named: set[str]) -> Any:
    """The nav without pages that are not there; sections left empty go too."""
    if isinstance(nav, str):
        named.add(nav)
        return nav if nav in there else None
    if isinstance(nav, dict):
        kept = {title: _existing(item, there, named) for title, item in nav.items()}
        return {title: item for title, item in kept.items() if item} or None
    return [item for item in (_existing(item, there, named) for item in nav) if item]


def _outside(text: str, source: str) -> list[tuple[str, str]]:
    """(target as written, repository path) of the links of a file to what is no page of its own."""
    pages = set(_pages().values())
    found = [(match[2], _resolve(match[2], source)) for match in LINK.finditer(text)]
    return [
        (target, place)
        for target, place in found
        if place and place not in pages and (not place.startswith("docs/") or place.endswith(".py"))
    ]


def _resolve(target: str, source: str) -> str | None:
    """The repository path that a relative link of ``source`` means; None where there is no such file."""
    if not target or "://" in target or target.startswith(("/", "mailto:", "data:")):
        return None
    place = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    path = ROOT / place
    if place.startswith("..") or not path.exists():
        return None
    return f"{place}/README.md" if path.is_dir() and (path / "README.md").is_file() else place


def _source_page(name: str) -> str:
    return f"{SOURCES}/{name}.md"


def _listing(name: str) -> str:
    """A file of the repository, or the names in a folder, as a page."""
    path = ROOT / name
    if path.is_dir():
        names = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith(("_", ".")))
        return f"# {name}\n\n" + "".join(f"- `{entry}`\n" for entry in names)
    kind = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".sh": "sh", ".json": "json"}.get(path.suffix, "text")
    return f"# {name}\n\n````{kind}\n{path.read_text(encoding='utf-8')}\n````\n"

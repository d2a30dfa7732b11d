"""Hook of MkDocs: makes pages of the repository's other documents, and lets links follow.

Pages link to one another as files of the repository, so that they work on GitHub and in an editor.
"""

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).parents[1]

OTHER_DOCUMENTS = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "experiments/README.md": "lab-log.md",
}
"""Documents outside of docs/, and the pages that they become."""

LINK = re.compile(r"(!?)\[([^\[\]]*)\]\((?!https?:|#|mailto:)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the documents outside of docs/."""
    for document, page in OTHER_DOCUMENTS.items():
        files.append(File.generated(config, page, abs_src_path=str(REPOSITORY / document)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Return the text with each link to a file of the repository pointing to the file's page.

    A file that isn't part of the site, such as a module, is named without a link.
    """
    document = document_of(page.file.src_uri)

    def on_the_site(link: re.Match[str]) -> str:
        image, text, target, anchor = link.groups(default="")
        linked_page = page_of(os.path.normpath(document.parent / target))
        if linked_page is None:
            return text
        address = os.path.relpath(linked_page, PurePosixPath(page.file.src_uri).parent)
        return f"{image}[{text}]({address}{anchor})"

    return LINK.sub(on_the_site, markdown)


def document_of(page: str) -> PurePosixPath:
    """Return the path in the repository of the document that a page is made of."""
    documents = {page: document for document, page in OTHER_DOCUMENTS.items()}
    return PurePosixPath(documents.get(page, f"docs/{page}"))


def page_of(document: str) -> str | None:
    """Return the path on the site of a file of the repository, None if it has none."""
    if document in OTHER_DOCUMENTS:
        return OTHER_DOCUMENTS[document]
    is_folder = (REPOSITORY / document).is_dir()
    is_on_site = document.startswith("docs/") and not is_folder
    return document.removeprefix("docs/") if is_on_site else None

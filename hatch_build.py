"""Make the links of the README work on a package index, which shows it without the repository."""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

LINK = re.compile(r"\[((?:[^\[\]]|!\[[^\]]*\]\([^)]*\))*)\]\((?!\w+:)([^)#\s]+)(#[^)\s]*)?\)")


class ReadmeLinks(MetadataHookInterface):
    """Point relative links to the repository, at the tag of this version; without its URL, keep only their text."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the description of the package."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        source = metadata.get("urls", {}).get("Source", "").rstrip("/")
        target = rf"[\1]({source}/blob/v{metadata['version']}/\2\3)" if source else r"\1"
        metadata["readme"] = {"content-type": "text/markdown", "text": LINK.sub(target, text)}

"""Files of a sandbox."""

from typing import Any, List, Union


class Filesystem:
    def __init__(self, official: Any) -> None:
        self._files = official.files

    def write(self, path: str, content: Union[str, bytes]) -> None:
        """Writes a file; directories on the way are made."""
        self._files.write(path, content)

    def write_bytes(self, path: str, content: bytes) -> None:
        self._files.write(path, bytes(content))

    def read(self, path: str) -> str:
        return self._files.read(path)

    def read_bytes(self, path: str) -> bytes:
        return bytes(self._files.read(path, format="bytes"))

    def list(self, path: str) -> List[Any]:
        return self._files.list(path)

    def exists(self, path: str) -> bool:
        return self._files.exists(path)

    def make_dir(self, path: str) -> bool:
        """False when it was there already."""
        return self._files.make_dir(path)

    def rename(self, old: str, new: str) -> None:
        self._files.rename(old, new)

    def remove(self, path: str) -> None:
        self._files.remove(path)

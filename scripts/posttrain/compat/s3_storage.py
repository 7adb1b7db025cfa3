"""Every touch of Snakemake's S3 plugin that its documentation does not promise.

Checked with snakemake-storage-plugin-s3 0.3.6; tests/unit/compat/test_s3_storage.py fails when it changes.

- `look_again`: an object of the plugin remembers that its key is no folder (`__init__.py`, `StorageObject.is_dir`). A folder that a job
  of another machine has written is then missing for ever to the command that waits for it, and one that was removed stays. It could go
  if `exists` forgot it. What `exists` finds as an object of its own is no folder, which saves a listing for each file.
"""

from typing import Any

CHECKED = {"snakemake-storage-plugin-s3": "0.3.6"}
PLUGIN = "snakemake_storage_plugin_s3"


def look_again(provider: Any) -> None:
    """Let the objects of a provider find folders that appear and disappear, if it is the S3 plugin's."""
    kind = provider.get_storage_object_cls()
    if kind.__module__ != PLUGIN or hasattr(kind.exists, "before"):
        return
    before = kind.exists

    def exists(self: Any) -> bool:
        self._is_dir = None
        found = before(self)
        self._is_dir = bool(self._is_dir) if found else None
        return found

    exists.before = before
    kind.exists = exists

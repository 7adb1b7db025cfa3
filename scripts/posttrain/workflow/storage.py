"""Results in a storage of Snakemake's, such as an S3 bucket: what Snakemake does not do by itself there.

Snakemake keeps what it knows of a job's parameters and of the checksums of its inputs in the folder (.snakemake/metadata), so a
second machine has nothing but times of change: it would take results of another configuration as its own, and build everything
again because its copy of the data is younger. Here specs and hashes are compared with those that lie in the storage.
"""

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from posttrain.runtime.errors import UserError
from posttrain.workflow import paths
from posttrain.workflow.staging import staged

MARK = f"{paths.RESULTS}/.configuration"
LONG_AGO = 0


class Storage:
    """The default storage of a command."""

    def __init__(self, provider: Any, prefix: str) -> None:
        """The storage of a provider of Snakemake's, below a prefix such as `s3://bucket/project`."""
        self.provider, self.prefix = provider, prefix.rstrip("/")
        self.read = cache(self._read)

    @property
    def folder(self) -> str:
        """Where a job on this machine finds its copies of results/."""
        return str(self._object(paths.RESULTS).local_path())

    def check(self) -> None:
        """Ask for one object, so that a missing key or bucket is told before anything is built or submitted.

        Raises:
            UserError: the storage does not answer, refuses, or has no such bucket.
        """
        mark = self._object(MARK)
        if not (valid := mark.is_valid_query()):
            hint = "write --default-storage-prefix with its address, such as s3://BUCKET/PROJECT"
            raise UserError("no-storage", "--default-storage-prefix", f"'{self.prefix}' {valid.reason}", hint)
        try:
            mark.exists()
        except Exception as error:  # each provider has its own
            reason = " ".join(str(error).split())
            hint = "give its address and keys in the environment, see docs/storage.md"
            raise UserError("no-storage", self.prefix, reason, hint) from None
        if hasattr(mark, "bucket_exists") and not mark.bucket_exists():
            hint = f"make it first (aws s3 mb s3://{mark.bucket}), or write another --default-storage-prefix"
            raise UserError("no-storage", self.prefix, f"there is no bucket '{mark.bucket}'", hint)

    def announce(self, configuration: str) -> None:
        """Write which configuration builds here; a storage that may not be written to is told before the first job.

        Raises:
            UserError: the storage refuses.
        """
        mark = self._object(MARK)
        mark.set_local_path(Path(staged(configuration)))
        try:
            mark.store_object()
        except Exception as error:  # each provider has its own
            reason = str(error).rpartition(": ")[2]
            hint = "let this key write and delete there (s3:PutObject, s3:DeleteObject)"
            raise UserError("no-storage", self.prefix, f"it cannot be written to ({reason})", hint) from None

    def text(self, text: str, file: str, sources: dict[str, list[str]] | None = None) -> str:
        """The local file from which a job copies `text` to `file`: younger than what is stored if that says something else.

        Args:
            sources: by record in the storage, such as `results/data/x/data.json`, the user's files that it has the hashes of.
        """
        stored = self.read(file)
        same = stored is None or stored == f"{text}\n".encode()
        same = same and all(self._is_of(record, files) for record, files in (sources or {}).items())
        local = staged(text)
        os.utime(local, (LONG_AGO, LONG_AGO) if same else (time.time(),) * 2)
        return local

    def _is_of(self, record: str, files: Iterable[str]) -> bool:
        stored = self.read(record)
        if stored is None:
            return True
        return json.loads(stored)["files"] == {
            file: hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in files
        }

    def _read(self, file: str) -> bytes | None:
        stored = self._object(file)
        if not stored.exists():
            return None
        with tempfile.TemporaryDirectory() as folder:
            stored.set_local_path(Path(folder, "file"))
            stored.retrieve_object()
            return Path(folder, "file").read_bytes()

    def _object(self, file: str) -> Any:
        return self.provider.object(f"{self.prefix}/{file}")

"""A team's cache in an S3 bucket; credentials, region and endpoint are those of boto3's own variables and files."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from posttrain.runtime.cache_folder import BROKEN, Entry
from posttrain.runtime.errors import UserError

PART_BYTES = 64 * 2**20  # S3 allows 10,000 parts: entries of up to 625 GiB
TAKEN = ("PreconditionFailed", "ConditionalRequestConflict")  # the key has an object already
MISSING = ("404", "NoSuchKey", "NotFound")


@contextlib.contextmanager
def _faults() -> Iterator[None]:
    """Raise what boto3 raises as OSError; FileNotFoundError for an object that is missing."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        raise (FileNotFoundError if _code(error) in MISSING else OSError)(str(error)) from error
    except BotoCoreError as error:
        raise OSError(str(error)) from error


def _code(error: Any) -> str:
    return error.response["Error"]["Code"]


class Bucket:
    """Entries under a prefix of a bucket; see `cache_folder.Store`."""

    def __init__(self, bucket: str, prefix: str) -> None:
        """Entries under `prefix` of `bucket`.

        Raises:
            UserError: boto3 is not installed.
        """
        try:
            import boto3
        except ImportError:
            raise UserError(
                "missing-package", "cache.path", "a bucket needs boto3", "run: pip install posttrain[s3]"
            ) from None
        with _faults():
            self.client = boto3.client("s3")
        self.bucket, self.prefix = bucket, f"{prefix.strip('/')}/".lstrip("/")

    def _of(self, key: str, suffix: str = ".tar") -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": f"{self.prefix}{key}{suffix}"}

    def has(self, key: str) -> bool:
        """See Store."""
        try:
            with _faults():
                self.client.head_object(**self._of(key))
        except FileNotFoundError:
            return False
        return True

    @contextlib.contextmanager
    def reading(self, key: str) -> Iterator[BinaryIO]:
        """See Store."""
        with _faults():
            yield self.client.get_object(**self._of(key))["Body"]

    def mark_used(self, key: str) -> None:
        """See Store."""
        with _faults():
            self.client.put_object(**self._of(key, ".used"), Body=b"")

    def put(self, key: str, write: Callable[[Any], None]) -> None:
        """See Store. An upload in parts becomes an object when it is completed, which S3 refuses where there is one."""
        from botocore.exceptions import ClientError

        with _faults():
            upload = _Upload(self.client, self._of(key))
            try:
                write(upload)
                upload.complete()
            except BaseException as error:
                self.client.abort_multipart_upload(**upload.place)
                if not (isinstance(error, ClientError) and _code(error) in TAKEN):
                    raise

    def entries(self) -> list[Entry]:
        """See Store."""
        with _faults():
            pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.prefix)
            found = {item["Key"]: item for page in pages for item in page.get("Contents", ())}
        entries = []
        for name, item in found.items():
            if name.endswith(".tar"):
                used = found.get(f"{name.removesuffix('.tar')}.used", item)
                key = name.removeprefix(self.prefix).removesuffix(".tar")
                entries.append(Entry(key, item["Size"], used["LastModified"].timestamp()))
        return entries

    def remove(self, key: str) -> None:
        """See Store."""
        with _faults():
            for suffix in (".tar", ".used"):
                self.client.delete_object(**self._of(key, suffix))

    def set_aside(self, key: str) -> None:
        """See Store."""
        with _faults():
            aside = self._of(BROKEN + key)
            self.client.copy(self._of(key), aside["Bucket"], aside["Key"])
            self.client.delete_object(**self._of(key))

    def check(self, writable: bool) -> str | None:
        """See Store; an empty object is written."""
        try:
            with _faults():
                self.client.list_objects_v2(Bucket=self.bucket, Prefix=self.prefix, MaxKeys=1)
                if writable:
                    self.client.put_object(**self._of("writable", ""), Body=b"")
        except OSError as error:
            return str(error)
        return None


class _Upload:
    """An upload in parts, written to as a file."""

    def __init__(self, client: Any, place: dict[str, str]) -> None:
        self.client, self.waiting, self.parts = client, bytearray(), []
        self.place = place | {"UploadId": client.create_multipart_upload(**place)["UploadId"]}

    def write(self, data: bytes) -> int:
        """Take some bytes; those of a whole part are sent."""
        self.waiting += data
        if len(self.waiting) >= PART_BYTES:
            self._send()
        return len(data)

    def _send(self) -> None:
        number = len(self.parts) + 1
        sent = self.client.upload_part(**self.place, PartNumber=number, Body=bytes(self.waiting))
        self.parts.append({"PartNumber": number, "ETag": sent["ETag"]})
        self.waiting.clear()

    def complete(self) -> None:
        """Make the object of the parts, unless there is one of this name."""
        self._send()
        self.client.complete_multipart_upload(**self.place, MultipartUpload={"Parts": self.parts}, IfNoneMatch="*")

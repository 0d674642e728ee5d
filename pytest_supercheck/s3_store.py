"""
The store in S3, or in anything that speaks like it.

An adapter, and the only module that imports boto3.  Credentials and region come from where boto3 looks for them: AWS's
own variables and files, or the machine's role.
"""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO, Final

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from pytest_supercheck.errors import NotStored, StoreTrouble
from pytest_supercheck.store import Entry, check_folder, check_key, headers

#: Seconds to connect, and to wait for the next bytes of an answer.
CONNECT_S: Final = 5
READ_S: Final = 30

#: How often a request is made at most, with pauses between that grow.
ATTEMPTS: Final = 4

#: Bytes from which an object goes in parts, and of such a part.
PART_BYTES: Final = 8 * 1024 * 1024

#: Objects that one request removes, at most.
_DELETED_AT_ONCE: Final = 1000

_CREDENTIALS: Final = frozenset(
    {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "403"}
)
_ABSENT: Final = frozenset({"NoSuchKey", "404"})
_EXISTS: Final = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "412"})
_PAST_THE_END: Final = frozenset({"InvalidRange", "416"})


class S3Store:
    """
    A `store.Store`.

    Args:
        bucket: It has to exist.
        prefix: What all keys begin with there; empty, or with a slash at its end.
        endpoint: The server's address; None for AWS.
        addressing: ``path`` or ``virtual``: where the bucket's name is in an address; ``auto`` is path with an
            endpoint.

    Without ``replace`` the first of several writers wins only where the server knows `If-None-Match`, as AWS, MinIO and
    most others do.
    """

    def __init__(self, bucket: str, prefix: str = "", *, endpoint: str | None = None, addressing: str = "auto") -> None:
        self._bucket = bucket
        self._prefix = check_folder(prefix)
        config = Config(
            connect_timeout=CONNECT_S,
            read_timeout=READ_S,
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            s3={"addressing_style": addressing},
            signature_version="s3v4",
            # Servers that are not AWS know neither these checksums nor their trailers.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        with self._translated():
            session = boto3.session.Session()
            region = session.region_name or "us-east-1"
            self._client: Any = session.client("s3", endpoint_url=endpoint, region_name=region, config=config)

    def __str__(self) -> str:
        return f"s3://{self._bucket}/{self._prefix}"

    def put(self, key: str, content: bytes | BinaryIO, *, replace: bool = True) -> bool:
        """As in `store.Store`; what has more than one part goes part by part."""
        about = headers(check_key(key))
        kind = {"ContentType": about.content_type, "CacheControl": about.cache_control}
        condition = {} if replace else {"IfNoneMatch": "*"}
        parts = _parts(io.BytesIO(content) if isinstance(content, bytes) else content)
        first, second = next(parts, b""), next(parts, None)
        try:
            with self._translated():
                if second is None:
                    self._client.put_object(**self._named(key), Body=first, **kind, **condition)
                else:
                    self._put_parts(key, itertools.chain((first, second), parts), kind, condition)
        except _Exists:
            return False
        return True

    def _put_parts(self, key: str, parts: Iterable[bytes], kind: dict[str, str], condition: dict[str, str]) -> None:
        upload = self._client.create_multipart_upload(**self._named(key), **kind)["UploadId"]
        try:
            tags = [
                {
                    "PartNumber": number,
                    "ETag": self._client.upload_part(**self._named(key), UploadId=upload, PartNumber=number, Body=part)[
                        "ETag"
                    ],
                }
                for number, part in enumerate(parts, 1)
            ]
            self._client.complete_multipart_upload(
                **self._named(key), UploadId=upload, MultipartUpload={"Parts": tags}, **condition
            )
        except BaseException:
            with contextlib.suppress(BotoCoreError, ClientError):
                self._client.abort_multipart_upload(**self._named(key), UploadId=upload)
            raise

    def get(self, key: str, *, start: int = 0, length: int | None = None) -> BinaryIO:
        """As in `store.Store`."""
        check_key(key)
        last = "" if length is None else start + length - 1
        wanted = {"Range": f"bytes={start}-{last}"} if start or length is not None else {}
        try:
            with self._translated():
                found = self._client.get_object(**self._named(key), **wanted)
        except _PastTheEnd:
            return io.BytesIO()
        return io.BufferedReader(_Body(found["Body"], self._translated))

    def head(self, key: str) -> Entry | None:
        """As in `store.Store`."""
        check_key(key)
        try:
            with self._translated():
                found = self._client.head_object(**self._named(key))
        except NotStored:
            return None
        return Entry(key=key, size_bytes=found["ContentLength"], written_at=found["LastModified"])

    def list(self, folder: str = "", *, deep: bool = True) -> Iterator[Entry]:
        """As in `store.Store`."""
        wanted = {"Bucket": self._bucket, "Prefix": self._prefix + check_folder(folder)}
        if not deep:
            wanted["Delimiter"] = "/"
        with self._translated():
            for page in self._client.get_paginator("list_objects_v2").paginate(**wanted):
                entries = [
                    Entry(key=self._key(found["Key"]), size_bytes=found["Size"], written_at=found["LastModified"])
                    for found in page.get("Contents", ())
                    if not found["Key"].endswith("/")  # consoles put such an object for an empty folder
                ]
                entries += [Entry(key=self._key(found["Prefix"])) for found in page.get("CommonPrefixes", ())]
                yield from sorted(entries, key=lambda entry: entry.key)

    def delete(self, keys: Iterable[str]) -> None:
        """As in `store.Store`."""
        names = iter([{"Key": self._prefix + check_key(key)} for key in keys])
        while some := list(itertools.islice(names, _DELETED_AT_ONCE)):
            with self._translated():
                gone = self._client.delete_objects(Bucket=self._bucket, Delete={"Objects": some, "Quiet": True})
            for failed in gone.get("Errors", ()):
                if failed.get("Code") not in _ABSENT:
                    raise StoreTrouble(f"{self} does not remove {failed.get('Key')}: {failed.get('Message')}")

    def url(self, key: str, *, ttl_s: float = 3600, download: bool = False) -> str:
        """As in `store.Store`: signed, so that no credentials are needed."""
        wanted = self._named(check_key(key))
        if download:
            wanted |= {"ResponseContentDisposition": "attachment", "ResponseContentType": "application/octet-stream"}
        with self._translated():
            signed = self._client.generate_presigned_url("get_object", Params=wanted, ExpiresIn=int(ttl_s))
        return str(signed)

    def _named(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + key}

    def _key(self, name: str) -> str:
        return name[len(self._prefix) :]

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except ClientError as exc:
            raise self._error(exc) from exc
        except BotoCoreError as exc:
            raise StoreTrouble(f"{self} cannot be used: {exc}") from exc

    def _error(self, exc: ClientError) -> Exception:
        """What an answer that is not a good one means."""
        told = exc.response.get("Error", {})
        code, message = str(told.get("Code", "")), told.get("Message") or "no more words"
        if code in _ABSENT:
            return NotStored(f"{self} has no such object")
        if code in _EXISTS:
            return _Exists()
        if code in _PAST_THE_END:
            return _PastTheEnd()
        if code == "NoSuchBucket":
            return StoreTrouble(f"{self} cannot be used: there is no such bucket; create it, or name another one")
        if code in _CREDENTIALS:
            return StoreTrouble(f"{self} refuses the credentials ({code}: {message}): look at AWS's own variables")
        return StoreTrouble(f"{self} cannot be used now ({code}: {message})")


class _Exists(Exception):
    """The object is there already."""


class _PastTheEnd(Exception):
    """The object ends before the first byte that was asked for."""


class _Body(io.RawIOBase):
    """An answer that is being read, whose errors are ours."""

    def __init__(self, body: Any, translated: Callable[[], contextlib.AbstractContextManager[None]]) -> None:
        self._body = body
        self._translated = translated

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with self._translated():
            chunk = self._body.read(len(buffer))
        buffer[: len(chunk)] = chunk
        return len(chunk)

    def close(self) -> None:
        self._body.close()
        super().close()


def _parts(stream: BinaryIO) -> Iterator[bytes]:
    """A stream in parts that are all full but the last; an empty one has none."""
    part = bytearray()
    while chunk := stream.read(PART_BYTES - len(part)):
        part += chunk
        if len(part) == PART_BYTES:
            yield bytes(part)
            part.clear()
    if part:
        yield bytes(part)

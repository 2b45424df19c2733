"""Downloads corpora from where their owners put them.

Interrupted downloads resume where they stopped, unpacked folders are complete or
absent, and checksums are compared where the owner publishes them; otherwise the
SHA-256 of the download is printed.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pathlib
import re
import shutil
import tarfile
import tempfile
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor

from huggingface_hub.file_download import http_get
from huggingface_hub.utils import disable_progress_bars
from tqdm import tqdm

from mlkd_lobes.data.corpora import SOURCES
from mlkd_lobes.errors import InputError, check_choice
from mlkd_lobes.files import (
    LFS_POINTER,
    PARTIAL_PREFIX,
    read_json,
    remove,
    report_full_disk,
    write_json,
)

# A file to download; `checksum`: "md5:…", "sha256:…" or None.
Remote = namedtuple("Remote", ["name", "url", "size", "checksum"])

GITHUB, ARCHIVE = "https://github.com/", "/archive/HEAD.zip"
MEDIA = "https://media.githubusercontent.com/media/"
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError)


def fetch(name: str, folder) -> None:
    """Downloads and unpacks a corpus, or raises with directions to obtain it."""
    check_choice("corpus", name, SOURCES)
    source, folder = SOURCES[name], pathlib.Path(folder)
    place, only = source["source"], source.get("only", "")
    print(
        f"{name}: {source['licence']}; {source.get('size', 'size not stated')}"
    )
    if " " in place:
        raise InputError(
            f"{name} cannot be downloaded freely. {place}, then give its folder "
            "as --data_folder."
        )
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(PARTIAL_PREFIX + "*"):
        remove(leftover)
    # What was fetched: URL to hash.
    record = folder / ".fetched.json"
    done = read_json(record, dict) if record.is_file() else {}
    for remote in remote_files(place, only):
        if remote.url not in done:
            found = download(remote, folder / remote.name)
            if remote.checksum is None:
                print(f"{remote.name}: no published checksum; SHA-256 {found}")
            unpack(folder / remote.name)
            write_json(record, done := {**done, remote.url: found})
    if place.startswith(GITHUB):
        replace_pointers(folder, place.removesuffix(ARCHIVE), only)
    print(f"{name}: complete in {folder}")


def remote_files(place: str, only: str) -> list[Remote]:
    """The files to download: those of a Zenodo record, or one archive."""
    if "/api/" not in place:
        return [Remote(place.rpartition("/")[2], place, _size(place), None)]
    try:
        content = json.loads(_get(place, io.BytesIO()).getvalue())
        found = [
            Remote(f["key"], f["links"]["self"], f["size"], f["checksum"])
            for f in content["files"]
        ]
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise InputError(f"{place}: its answer is not as expected ({error!r})")
    return [remote for remote in found if re.search(only, remote.name)]


def _size(url):
    """The size of a URL's content; None where the server does not tell."""
    request = urllib.request.Request(url, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return int(response.headers["Content-Length"] or 0) or None
    except OSError:
        return None  # the download itself will say why


def _get(url, file, size=None):
    """Appends the rest of a URL's content to an open file."""
    try:
        http_get(url, file, resume_size=file.tell(), expected_size=size)
    # The errors of the HTTP library have no class in common with OSError.
    except Exception as error:
        text = str(error).strip().splitlines() or [repr(error)]
        raise InputError(
            f"{url}: cannot be downloaded ({text[0]}); what has arrived is kept, "
            "repeat the command to continue"
        ) from error
    return file


def download(remote: Remote, path: pathlib.Path) -> str:
    """Downloads a file, going on where an earlier try stopped; its hash."""
    part = path.with_name(f"{path.name}.part")
    if path.is_file() and path.stat().st_size == remote.size:
        os.replace(path, part)  # it could not be unpacked before
    with report_full_disk(part), open(part, "ab") as file:
        if file.tell() > (remote.size or 0):
            file.truncate(0)  # of another file, or of unknown size
            file.seek(0)
        _get(remote.url, file, remote.size)
    kind, _, expected = (remote.checksum or "sha256:").partition(":")
    with open(part, "rb") as file:
        found = hashlib.file_digest(file, kind).hexdigest()
    if expected and found != expected:
        part.unlink()
        raise InputError(
            f"{remote.url}: its {kind} is {found}, published is {expected}; the "
            "file was removed, repeat the command"
        )
    os.replace(part, path)
    return found


def unpack(archive: pathlib.Path) -> None:
    """Unpacks an archive beside it and removes it; all or nothing."""
    folder = archive.parent
    with tempfile.TemporaryDirectory(prefix=PARTIAL_PREFIX, dir=folder) as temp:
        temp = pathlib.Path(temp)
        with report_full_disk(archive):
            _unpack(archive, temp)
            # MELD's archive holds archives.
            for inner in sorted(temp.rglob("*.tar.gz")):
                _unpack(inner, inner.parent)
                inner.unlink()
        names = [path.name for path in temp.iterdir()]
        taken = [name for name in names if (folder / name).exists()]
        if taken:
            raise InputError(
                f"{folder / taken[0]}: exists already; delete it, or give "
                "another folder"
            )
        for name in names:
            os.replace(temp / name, folder / name)
    archive.unlink()


def _unpack(archive, folder):
    options = {} if archive.suffix == ".zip" else {"filter": "data"}
    try:
        shutil.unpack_archive(archive, folder, **options)
    except (shutil.ReadError, tarfile.TarError, *DAMAGED) as error:
        archive.unlink()
        raise InputError(
            f"{archive}: is no complete archive ({error}); it was removed, repeat "
            "the command"
        )


def replace_pointers(folder: pathlib.Path, repository: str, only: str) -> None:
    """Downloads the files whose pointers of Git LFS a GitHub archive held."""
    base = repository.replace(GITHUB, MEDIA)
    # GitHub names the folder in the archive after repository and commit.
    pattern = repository.rpartition("/")[2] + "-*/**/*"
    pointers = [
        path
        for path in sorted(folder.glob(pattern))
        if re.search(only, path.as_posix())
        and path.is_file()
        and path.stat().st_size < 1024
        and path.read_bytes().startswith(LFS_POINTER)
    ]

    def replace(path):
        """Downloads one file over its pointer."""
        text = path.read_text(encoding="utf-8")
        oid, size = re.search(r"oid (\S+)\nsize (\d+)", text).groups()
        place = "/".join(path.relative_to(folder).parts[1:])
        url = f"{base}/HEAD/{urllib.parse.quote(place)}"
        download(Remote(path.name, url, int(size), oid), path)

    disable_progress_bars()
    with ThreadPoolExecutor(max_workers=8) as pool:
        found = pool.map(replace, pointers)
        list(tqdm(found, total=len(pointers), unit="file", disable=None))

"""Downloads from a local server: resumed, checked, unpacked, or a clear error."""

import hashlib
import http.server
import io
import json
import os
import tarfile
import threading
import zipfile

import pytest
from huggingface_hub.utils import enable_progress_bars

from mlkd_lobes import cli
from mlkd_lobes.data import fetch as tools
from mlkd_lobes.data.corpora import CORPORA, SOURCES
from mlkd_lobes.errors import InputError
from mlkd_lobes.files import LFS_POINTER


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves bytes by path, with ranges; cuts a connection where it is told to."""

    def do_HEAD(self):
        content = self.server.content.get(self.path)
        self.send_response(200 if content else 404)
        if self.server.ranges:  # servers without them may not tell the size
            self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()

    def do_GET(self):
        content = self.server.content.get(self.path)
        if content is None:
            return self.send_error(404)
        asked = self.headers.get("Range")
        self.server.asked.append((self.path, asked))
        start = 0
        if asked and self.server.ranges:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        cut = self.server.cuts.pop(0) if self.server.cuts else None
        self.wfile.write(content[start : None if cut is None else start + cut])
        if cut is not None:
            self.wfile.flush()
            self.connection.close()

    def log_message(self, *_):
        """Nothing."""


@pytest.fixture(autouse=True)
def online(monkeypatch):
    """Whatever the tests' environment says; no waiting between tries."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("time.sleep", lambda _: None)
    # What is lost with a cut.
    monkeypatch.setattr(
        "huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1 << 10
    )
    enable_progress_bars()


@pytest.fixture
def server():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.content, server.asked, server.cuts = {}, [], []
    server.ranges = True
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def serve(server, monkeypatch):
    """Puts content on the server as a corpus of SOURCES."""

    def serve(content, path="/corpus.zip", only="."):
        server.content[path] = content
        source = {"licence": "CC BY 4.0", "size": "3 GB", "only": only}
        source["source"] = server.url + path
        monkeypatch.setitem(SOURCES, "musan", source)

    return serve


def zipped(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


DATA = os.urandom(3 << 20)
# A first try brings a megabyte, those that follow nothing.
CUT = [1 << 20, *[0] * 6]
ARCHIVE = zipped({"musan/noise/a.wav": DATA, "musan/README": b"x"})


def leftovers(folder):
    return [
        p for p in folder.iterdir() if ".part" in p.name or ".etag" in p.name
    ]


def test_every_source_is_known():
    assert {*CORPORA, "iemocap", "musan", "demand", "esc50"} <= set(SOURCES)


def test_licence_and_size_come_first(serve, tmp_path, capsys):
    serve(ARCHIVE)
    assert cli.main(["fetch", "musan", str(tmp_path / "c")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "musan: CC BY 4.0; 3 GB"
    sha256 = hashlib.sha256(ARCHIVE).hexdigest()
    assert lines[1] == f"corpus.zip: no published checksum; SHA-256 {sha256}"
    assert (tmp_path / "c/musan/noise/a.wav").read_bytes() == DATA
    assert (
        not leftovers(tmp_path / "c")
        and not (tmp_path / "c/corpus.zip").exists()
    )


def test_a_folder_may_take_several_corpora(serve, tmp_path):
    """All archives of GitHub are called HEAD.zip."""
    for name in ("one", "two"):
        serve(zipped({f"{name}/a.wav": b"x"}), f"/{name}/HEAD.zip")
        tools.fetch("musan", tmp_path)
        assert (tmp_path / name / "a.wav").exists()


def test_a_second_call_downloads_nothing(serve, server, tmp_path):
    serve(ARCHIVE)
    tools.fetch("musan", tmp_path)
    asked = len(server.asked)
    tools.fetch("musan", tmp_path)
    assert len(server.asked) == asked


@pytest.mark.parametrize("ranges", [True, False])
def test_a_cut_download_goes_on(serve, server, tmp_path, ranges):
    serve(ARCHIVE)
    server.ranges, server.cuts = ranges, [1 << 20, 1 << 20]
    tools.fetch("musan", tmp_path)
    assert (tmp_path / "musan/noise/a.wav").read_bytes() == DATA
    ranges_asked = [asked for _, asked in server.asked]
    assert ranges_asked[:2] == [None, f"bytes={1 << 20}-"]


def test_a_download_goes_on_in_the_next_command(serve, server, tmp_path):
    serve(ARCHIVE)
    server.cuts = list(CUT)
    with pytest.raises(
        InputError, match="corpus.zip: cannot be downloaded .*repeat"
    ):
        tools.fetch("musan", tmp_path)
    assert [p.stat().st_size for p in leftovers(tmp_path)] == [1 << 20]
    server.asked.clear(), server.cuts.clear()
    tools.fetch("musan", tmp_path)
    assert server.asked == [("/corpus.zip", f"bytes={1 << 20}-")]
    assert (tmp_path / "musan/noise/a.wav").read_bytes() == DATA


def test_a_file_that_changed_meanwhile_is_not_used(serve, server, tmp_path):
    serve(zipped({"musan/a.wav": bytes(3 << 20)}))
    server.cuts = list(CUT)
    with pytest.raises(InputError, match="cannot be downloaded"):
        tools.fetch("musan", tmp_path)
    serve(ARCHIVE)
    server.cuts.clear()
    with pytest.raises(InputError, match="corpus.zip: is no complete archive"):
        tools.fetch("musan", tmp_path)
    tools.fetch("musan", tmp_path)
    assert (tmp_path / "musan/noise/a.wav").read_bytes() == DATA


def zenodo(serve, server, content, checksum):
    server.content["/files/x"] = content
    serve(
        json.dumps(
            {
                "files": [
                    {
                        "key": "A_16k.zip",
                        "size": len(content),
                        "checksum": checksum,
                        "links": {"self": f"{server.url}/files/x"},
                    },
                    {
                        "key": "A_48k.zip",
                        "size": 1,
                        "checksum": "md5:0",
                        "links": {"self": f"{server.url}/none"},
                    },
                ]
            }
        ).encode(),
        "/api/records/1",
        r"_16k\.zip$",
    )


def test_zenodo_names_files_and_checksums(serve, server, tmp_path, capsys):
    zenodo(serve, server, ARCHIVE, f"md5:{hashlib.md5(ARCHIVE).hexdigest()}")
    tools.fetch("musan", tmp_path)
    assert (tmp_path / "musan/noise/a.wav").read_bytes() == DATA
    assert "SHA-256" not in capsys.readouterr().out


def test_a_wrong_checksum_is_refused(serve, server, tmp_path):
    zenodo(serve, server, ARCHIVE, "md5:" + 32 * "0")
    with pytest.raises(
        InputError, match="files/x: its md5 is .*, published is 000.*removed"
    ):
        tools.fetch("musan", tmp_path)
    assert not (tmp_path / "musan").exists() and not leftovers(tmp_path)[1:]


def test_an_answer_that_is_no_record(serve, tmp_path):
    for answer in (b"{}", b"[]", b"<html>", b'{"files": [{}]}'):
        serve(answer, "/api/records/1")
        with pytest.raises(InputError, match="records/1: its answer is not as"):
            tools.fetch("musan", tmp_path)


def test_pointers_of_git_lfs_are_replaced(serve, server, tmp_path, monkeypatch):
    monkeypatch.setattr(tools, "GITHUB", server.url + "/")
    monkeypatch.setattr(tools, "MEDIA", server.url + "/media/")
    pointer = LFS_POINTER + b"v1\noid sha256:%s\nsize %d\n"
    wavs = {n: bytes([n]) * 5000 for n in range(20)}
    files = {
        f"R-HEAD/AudioWAV/{n}.wav": pointer
        % (hashlib.sha256(wav).hexdigest().encode(), len(wav))
        for n, wav in wavs.items()
    }
    files["R-HEAD/video.flv"] = pointer % (b"0" * 64, 9)
    for n, wav in wavs.items():
        server.content[f"/media/o/R/HEAD/AudioWAV/{n}.wav"] = wav
    del server.content["/media/o/R/HEAD/AudioWAV/7.wav"]
    serve(zipped(files), "/o/R/archive/HEAD.zip", r"AudioWAV/.*\.wav$")
    with pytest.raises(
        InputError, match="AudioWAV/7.wav: cannot be downloaded .*404"
    ):
        tools.fetch("musan", tmp_path)
    server.content["/media/o/R/HEAD/AudioWAV/7.wav"] = wavs[7]
    tools.fetch("musan", tmp_path)
    for n, wav in wavs.items():
        assert (tmp_path / f"R-HEAD/AudioWAV/{n}.wav").read_bytes() == wav
    assert (tmp_path / "R-HEAD/video.flv").stat().st_size < 200


def test_archives_inside_an_archive(serve, tmp_path):
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as archive:
        info = tarfile.TarInfo("train_splits/a.wav")
        info.size = 5
        archive.addfile(info, io.BytesIO(b"abcde"))
    serve(zipped({"MELD.Raw/train.tar.gz": inner.getvalue()}))
    tools.fetch("musan", tmp_path)
    assert (tmp_path / "MELD.Raw/train_splits/a.wav").read_bytes() == b"abcde"


def test_an_archive_that_leaves_its_folder_is_refused(serve, tmp_path):
    outer = io.BytesIO()
    with tarfile.open(fileobj=outer, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("../../evil"))
    serve(outer.getvalue(), "/corpus.tar.gz")
    with pytest.raises(
        InputError, match="corpus.tar.gz: is no complete archive"
    ):
        tools.fetch("musan", tmp_path / "in")
    assert not (tmp_path / "evil").exists()


def test_a_folder_that_exists_is_kept(serve, server, tmp_path):
    serve(ARCHIVE)
    (tmp_path / "musan").mkdir()
    (tmp_path / "musan/mine").touch()
    with pytest.raises(InputError, match="musan: exists already"):
        tools.fetch("musan", tmp_path)
    assert (tmp_path / "musan/mine").exists()
    # What has arrived is used.
    (tmp_path / "musan").rename(tmp_path / "mine")
    server.asked.clear()
    tools.fetch("musan", tmp_path)
    assert not server.asked


def test_a_full_disk_is_named(serve, tmp_path, monkeypatch):
    serve(ARCHIVE)
    monkeypatch.setattr("mlkd_lobes.files.MIN_FREE_BYTES", 1 << 62)

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tools, "http_get", fail)
    with pytest.raises(InputError, match="corpus.zip.part: the disk is full"):
        tools.fetch("musan", tmp_path)


def test_no_network(tmp_path, monkeypatch, capsys):
    place = "http://127.0.0.1:9/corpus.zip"
    source = {"licence": "x", "source": place}
    monkeypatch.setitem(SOURCES, "musan", source)
    assert cli.main(["fetch", "musan", str(tmp_path)]) == 1
    assert f"error: {place}: cannot be downloaded" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["savee", "tess", "esd", "msp_podcast", "emovo", "iemocap"]
)
def test_what_needs_a_licence_says_where_to_ask(name, tmp_path, capsys):
    assert cli.main(["fetch", name, str(tmp_path / "c")]) == 1
    assert "http" in capsys.readouterr().err
    assert not (tmp_path / "c").exists()

"""The dossier in a real browser: it renders, styled, in both themes, and hostile text in it does not run."""

from __future__ import annotations

import shutil
import struct
import subprocess
import zlib
from pathlib import Path
from typing import Any

import pytest

import reports

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
]  # fmt: skip

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: the page was not seen by a browser"),
]


@pytest.fixture(scope="module")
def page(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reports.render(world.ws, "dossier", "code-model:2", out=tmp_path_factory.mktemp("page") / "dossier.html")


def browse(page: Path, scratch: Path, *flags: str) -> str:
    """Open a page; return what the browser prints."""
    profile = scratch / "profile"
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", *flags, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


def pixels(png: Path) -> tuple[int, int, list[bytes]]:
    """Return width, height and rows of RGB(A) bytes of an 8-bit PNG (filters undone as the PNG standard says)."""
    data, at, idat, head = png.read_bytes(), 8, b"", b""
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        head, idat = (body if kind == b"IHDR" else head), (idat + body if kind == b"IDAT" else idat)
        at += 12 + length
    width, height, depth, colour = struct.unpack(">IIBB", head[:10])
    assert depth == 8
    step = {2: 3, 6: 4}[colour]
    raw, rows, before = zlib.decompress(idat), [], bytearray(width * step)
    for y in range(height):
        start = y * (width * step + 1)
        line = bytearray(raw[start + 1 : start + 1 + width * step])
        for x in range(len(line)):
            left, up = (line[x - step] if x >= step else 0), before[x]
            corner = before[x - step] if x >= step else 0
            line[x] = (line[x] + _predicted(raw[start], left, up, corner)) & 255
        rows.append(bytes(line))
        before = line
    return width, step, rows


def _predicted(filtered: int, left: int, up: int, corner: int) -> int:
    if filtered == 4:
        guess = left + up - corner
        return min((left, up, corner), key=lambda value: abs(guess - value))
    return (0, left, up, (left + up) // 2)[filtered]


def test_the_verdict_is_in_the_document(page: Path, tmp_path: Path) -> None:
    dom = browse(page, tmp_path, "--dump-dom")
    assert '<p class="lead" id="verdict">code-model:2 passed the gate' in dom
    assert '<span class="badge v-pass big">PASS</span>' in dom
    assert "<script" not in dom


@pytest.mark.parametrize(("scheme", "dark"), [("1", False), ("0", True)])
def test_it_renders_styled_in_both_themes(page: Path, tmp_path: Path, scheme: str, dark: bool) -> None:
    shot = tmp_path / "shot.png"
    theme = f"--blink-settings=preferredColorScheme={scheme}"
    browse(page, tmp_path, "--window-size=420,300", theme, f"--screenshot={shot}")
    width, step, rows = pixels(shot)
    corner = rows[4][4 * step : 4 * step + 3]
    assert (corner == bytes.fromhex("14171a")) is dark
    assert (corner == bytes.fromhex("fbfaf7")) is not dark
    shades = {rows[y][x * step : x * step + 3] for y in range(0, len(rows), 2) for x in range(0, width, 2)}
    assert len(shades) > 20, "an empty page"


def test_hostile_text_does_not_run(hostile: Any, tmp_path: Path) -> None:
    page = reports.render(hostile.ws, "dossier", "code-model:2", out=tmp_path / "dossier.html")
    dom = browse(page, tmp_path, "--dump-dom")
    assert "<script" not in dom
    assert "&lt;script&gt;alert('x')&lt;/script&gt;" in dom
